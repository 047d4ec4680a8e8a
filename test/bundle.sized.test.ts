/** The built package in a bundle, where its own files are missing. */
import { execFile, type ExecFileException } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { transform } from 'esbuild'
import t, { type Test } from 'tap'
import { inRepository } from './support/paths.js'
import { RedisServer } from '../tools/redis-server.js'
import { isFull } from './support/size.js'

const root = inRepository('./')
const program = join(root, 'test', 'support', 'bundled.mjs')

const server = await RedisServer.start()
t.teardown(async () => await server.stop())
/** Each program uses its own database. */
let database = 0

/** CommonJS dependencies need `require`, which an ES module lacks. */
const banner = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"

/** Commands that write bundles of the program into a folder, with no settings for the guard's own code. */
const bundlers: Readonly<Record<string, (folder: string) => readonly string[]>> = {
  'esbuild as an ES module': folder => [
    'esbuild', program, '--bundle', '--platform=node', '--format=esm', `--outfile=${folder}/program.mjs`,
    `--banner:js=${banner}`
  ],
  'esbuild as minified CommonJS': folder => [
    'esbuild', program, '--bundle', '--platform=node', '--format=cjs', '--minify', `--outfile=${folder}/program.cjs`
  ]
}

/** Rollup takes some 10 s for Fastify and ioredis. */
const largeBundlers: typeof bundlers = {
  'rollup as both': folder => ['rollup', '--config', 'test/support/rollup.config.mjs', '--configFolder', folder]
}

for (const [name, commandFor] of Object.entries({ ...bundlers, ...(isFull ? largeBundlers : {}) })) {
  t.test(`a program bundled by ${name} limits requests in a folder without other files`, async t => {
    const folder = await emptyFolder(t)
    await bundle(t, commandFor(folder))
    const bundles = await readdir(folder)
    t.ok(bundles.length > 0)
    for (const bundle of bundles) await limits(t, join(folder, bundle))
  })
}

t.test('a program that rollup bundles with the guard alone limits requests in both formats', async t => {
  const folder = await emptyFolder(t)
  await bundle(t, [
    'rollup', '--config', 'test/support/rollup.config.mjs', '--configOwn', '--configFolder', join(folder, 'bundles')
  ])
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  const bundles = await readdir(join(folder, 'bundles'))
  t.same(bundles.sort(), ['program.cjs', 'program.mjs'])
  for (const bundle of bundles) await limits(t, join(folder, 'bundles', bundle))
})

type Transpile = (source: string) => Promise<string>

/** Each turns a file into CommonJS, with default imports as in Babel. */
const transpilers: Readonly<Record<string, Transpile>> = {
  esbuild: async source => (await transform(source, { format: 'cjs', platform: 'node', target: 'es2023' })).code,
  ...(isFull ? { TypeScript: transpiledByTypeScript } : {})
}

for (const [name, transpile] of Object.entries(transpilers)) {
  t.test(`a program whose files ${name} turned into CommonJS, as Babel does for Jest, limits requests`, async t => {
    const folder = await emptyFolder(t)
    const lib = join(root, 'dist', 'lib')
    const files = (await readdir(lib, { recursive: true })).filter(file => file.endsWith('.js'))
    const pairs = files.map(file => [join(lib, file), join(folder, 'dist', 'lib', file)] as const)
    const main = join(folder, 'test', 'support', 'bundled.js')
    for (const [from, to] of [...pairs, [program, main] as const]) {
      await mkdir(dirname(to), { recursive: true })
      await writeFile(to, await transpile(await readFile(from, 'utf8')))
    }
    await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
    await limits(t, main)
  })
}

async function transpiledByTypeScript (source: string): Promise<string> {
  const { default: ts } = await import('typescript')
  const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2023, esModuleInterop: true }
  return ts.transpileModule(source, { compilerOptions }).outputText
}

async function emptyFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bundle-'))
  t.teardown(async () => await rm(folder, { recursive: true, force: true }))
  return folder
}

async function bundle (t: Test, [bundler, ...args]: readonly string[]): Promise<void> {
  const { code, output } = await run(join(root, 'node_modules', '.bin', bundler!), args, root)
  t.equal(code, 0, `${bundler} succeeds`, { output })
}

/** Runs a program on memory, then on Redis. Its third request must exceed the limit each time. */
async function limits (t: Test, file: string): Promise<void> {
  const args = [file, `${server.url}/${++database}`]
  const { code, stdout, output } = await run(process.execPath, args, dirname(file))
  const limited = 'memory 200 200 429\nredis 200 200 429\n'
  t.same({ code, stdout }, { code: 0, stdout: limited }, { output: output.slice(0, 2000) })
}

interface Result {
  readonly code: number | string
  readonly stdout: string
  readonly output: string
}

async function run (path: string, args: readonly string[], cwd: string): Promise<Result> {
  // Without NODE_OPTIONS, which contains tap's loaders, and without variables that the guard reads.
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'] }
  return await new Promise(resolve => {
    execFile(path, args, { cwd, env }, (error: ExecFileException | null, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code ?? 1, stdout, output: stdout + stderr })
    })
  })
}
