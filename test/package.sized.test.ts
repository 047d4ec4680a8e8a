/** The published package, used by name from node_modules, with only its declared dependencies. */
import { execFile, type ExecFileException } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { inRepository } from './support/paths.js'
import { isFull } from './support/size.js'
import { typeErrors } from './support/type-program.js'

const root = inRepository('./')

interface Manifest {
  readonly version: string
  readonly dependencies: Readonly<Record<string, string>>
  readonly peerDependencies: Readonly<Record<string, string>>
}

const manifest = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as Manifest
const folder = await mkdtemp(join(tmpdir(), 'package-'))
t.teardown(async () => await rm(folder, { recursive: true, force: true }))

// Without the build that npm would run first: other tests may be reading dist now.
const packed =
  await run('npm', ['pack', '--ignore-scripts', '--pack-destination', folder, '--cache', join(folder, 'cache')], root)
const tarball = join(folder, `fastify-redis-guard-${manifest.version}.tgz`)
const consumer = join(folder, 'consumer')
const installed = join(consumer, 'node_modules', 'fastify-redis-guard')
await mkdir(installed, { recursive: true })
const unpacked = await run('tar', ['-xzf', tarball, '--strip-components=1', '-C', installed], folder)

// Only these are linked, so an undeclared dependency is not found.
for (const name of [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies), '@types/node']) {
  const link = join(consumer, 'node_modules', name)
  await mkdir(dirname(link), { recursive: true })
  await symlink(join(root, 'node_modules', name), link)
}

t.test('the package contains the compiled lib, its documents and nothing else', async t => {
  t.equal(packed.code, 0, 'npm pack succeeds', { output: packed.output })
  t.equal(unpacked.code, 0, 'tar succeeds', { output: unpacked.output })
  const sources = await filesIn(join(root, 'lib'))
  // Declarations of other packages are not compiled.
  const ownSources = sources.filter(file => file.endsWith('.ts') && !file.endsWith('.d.ts'))
  const compiled = ownSources.flatMap(file => [file.replace(/ts$/, 'js'), file.replace(/ts$/, 'd.ts')])
  const pages = await filesIn(join(root, 'docs'))
  t.same(await filesIn(installed), [
    'CHANGELOG.md', 'LICENSE', 'README.md', 'package.json', ...compiled.map(file => `dist/lib/${file}`),
    ...pages.map(page => `docs/${page}`)
  ].sort())
})

const use = `
async function serve () {
  const app = Fastify()
  await app.register(redisGuard, { max: 1, timeWindow: '1 hour' })
  app.get('/', async () => 'served')
  console.log((await app.inject('/')).statusCode, (await app.inject('/')).statusCode)
  await app.close()
}
serve()
`

t.test('an ES module imports the package, and its second request is refused', async t => {
  await writeFile(
    join(consumer, 'service.mjs'),
    `import Fastify from 'fastify'\nimport redisGuard from 'fastify-redis-guard'\n${use}`
  )
  const { code, stdout, output } = await run(process.execPath, ['service.mjs'], consumer)
  t.same({ code, stdout }, { code: 0, stdout: '200 429\n' }, { output })
})

t.test('a CommonJS module requires the package, and its second request is refused', async t => {
  await writeFile(
    join(consumer, 'service.cjs'),
    `const Fastify = require('fastify')\nconst redisGuard = require('fastify-redis-guard')\n${use}`
  )
  const { code, stdout, output } = await run(process.execPath, ['service.cjs'], consumer)
  t.same({ code, stdout }, { code: 0, stdout: '200 429\n' }, { output })
})

const typedService = `
import Fastify from 'fastify'
import redisGuard, { type Block, type RedisGuardOptions } from 'fastify-redis-guard'

const options: RedisGuardOptions = { max: 100, timeWindow: '1 minute', redis: 'rediss://cache.internal:6379' }
const app = Fastify()
await app.register(redisGuard, options)

const block: Block = await app.redisGuard.blockIP('203.0.113.7', 3600)
const blocked: boolean = await app.redisGuard.isIPBlocked('203.0.113.7')
app.get('/login', { config: { rateLimit: { max: 5, timeWindow: '1 minute' } } }, async () => ({ block, blocked }))
app.get('/open', { config: { rateLimit: false } }, async () => 'open')

// @ts-expect-error: no such option
await app.register(redisGuard, { maximum: 100 })
// @ts-expect-error: max is a number, or computed for each request
await app.register(redisGuard, { max: '100' })
// Fastify's own types let unknown names of a route pass; those fail when the route is added.
// @ts-expect-error: also in a route
app.get('/text', { config: { rateLimit: { max: '5' } } }, async () => 'text')
// @ts-expect-error: seconds are a number
await app.redisGuard.blockIP('203.0.113.7', '1 hour')
`

t.test('the types accept correct code, and reject wrong code', async t => {
  await writeFile(join(consumer, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }))
  // One wrong line proves that the others are checked.
  const wrong = 'const text: string = redisGuard'
  const errors = typeErrors(consumer, { 'service.ts': `${typedService}\n${wrong}\n` }, /\/fastify-redis-guard\/dist\//)
  t.equal(errors.length, 1, '', { errors })
  t.ok(errors[0]!.startsWith(wrong))
})

/** Also checks the declarations of all packages: a conflict with ours may be reported there. */
async function compilesWhole (t: Test): Promise<void> {
  await writeFile(join(consumer, 'tsconfig.json'), JSON.stringify({
    compilerOptions: {
      module: 'nodenext', target: 'es2023', strict: true, skipLibCheck: false, noEmit: true, types: ['node']
    },
    files: ['service.ts']
  }))
  await writeFile(join(consumer, 'service.ts'), typedService)
  const tsc = join(root, 'node_modules', 'typescript', 'bin', 'tsc')
  const { code, output } = await run(process.execPath, [tsc], consumer)
  t.same({ code, output }, { code: 0, output: '' })
}
if (isFull) t.test('a project that checks the declarations of all packages compiles with it', compilesWhole)

/** Paths below a folder, sorted. */
async function filesIn (folder: string): Promise<string[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  return entries
    .filter(entry => entry.isFile())
    .map(entry => join(entry.parentPath, entry.name).slice(folder.length).replace(/^\//, ''))
    .sort()
}

type Ended = { code: number | string, stdout: string, output: string }

async function run (program: string, args: readonly string[], cwd: string): Promise<Ended> {
  // Without NODE_OPTIONS, which contains tap's loaders, and without variables that the guard reads.
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'] }
  return await new Promise(resolve => {
    execFile(program, args, { cwd, env }, (error: ExecFileException | null, stdout, stderr) => {
      resolve({ code: error === null ? 0 : error.code ?? 1, stdout, output: stdout + stderr })
    })
  })
}
