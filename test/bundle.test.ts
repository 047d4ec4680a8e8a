/** The built package in a bundle: it must not need the files that it came in. */
import { execFile, type ExecFileException } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import ts from 'typescript'
import { inRepository } from './support/paths.js'
import { RedisServer } from './support/redis-server.js'

const root = inRepository('./')
const program = join(root, 'test', 'support', 'bundled.mjs')

/** Dependencies in CommonJS need `require`, which an ES module lacks. */
const banner = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"

/** Commands that write bundles of the program into a folder, without anything for the guard's own code. */
const bundlers: Readonly<Record<string, (folder: string) => readonly string[]>> = {
  'esbuild as an ES module': folder => [
    'esbuild', program, '--bundle', '--platform=node', '--format=esm', `--outfile=${folder}/program.mjs`, `--banner:js=${banner}`
  ],
  'esbuild as minified CommonJS': folder => [
    'esbuild', program, '--bundle', '--platform=node', '--format=cjs', '--minify', `--outfile=${folder}/program.cjs`
  ],
  'rollup as both': folder => ['rollup', '--config', 'test/support/rollup.config.mjs', '--configFolder', folder]
}

for (const [name, commandFor] of Object.entries(bundlers)) {
  t.test(`a program that is bundled by ${name} limits in a folder that holds nothing else`, async t => {
    const folder = await emptyFolder(t)
    const [bundler, ...args] = commandFor(folder)
    const { code, output } = await run(join(root, 'node_modules', '.bin', bundler!), args, root)
    t.equal(code, 0, 'the bundle is made', { output })
    const bundles = await readdir(folder)
    t.ok(bundles.length > 0)
    for (const bundle of bundles) await limits(t, join(folder, bundle))
  })
}

t.test('a program whose every file was turned into CommonJS, as Jest with Babel does, limits', async t => {
  const folder = await emptyFolder(t)
  const lib = join(root, 'dist', 'lib')
  const files = (await readdir(lib, { recursive: true })).filter(file => file.endsWith('.js'))
  for (const file of files) await writeCommonJs(join(lib, file), join(folder, 'dist', 'lib', file))
  await writeCommonJs(program, join(folder, 'test', 'support', 'bundled.js'))
  await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  await limits(t, join(folder, 'test', 'support', 'bundled.js'))
})

async function emptyFolder (t: Test): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'bundle-'))
  t.teardown(async () => await rm(folder, { recursive: true, force: true }))
  return folder
}

async function writeCommonJs (from: string, to: string): Promise<void> {
  const compilerOptions = { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2023, esModuleInterop: true }
  await mkdir(dirname(to), { recursive: true })
  await writeFile(to, ts.transpileModule(await readFile(from, 'utf8'), { compilerOptions }).outputText)
}

/** Runs a program on memory and on Redis: each time its third request is over the limit. */
async function limits (t: Test, file: string): Promise<void> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  for (const [args, store] of [[[], 'memory'], [[server.url], 'redis']] as const) {
    const { code, stdout, output } = await run(process.execPath, [file, ...args], dirname(file))
    t.same({ code, stdout }, { code: 0, stdout: `${store} 200 200 429\n` }, { output: output.slice(0, 2000) })
  }
}

interface Result {
  readonly code: number | string
  readonly stdout: string
  readonly output: string
}

async function run (path: string, args: readonly string[], cwd: string): Promise<Result> {
  // Without NODE_OPTIONS, in which tap has its loaders; and without what the guard reads.
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'] }
  return await new Promise(resolve => {
    execFile(path, args, { cwd, env }, (error: ExecFileException | null, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code ?? 1, stdout, output: stdout + stderr })
    })
  })
}
