/**
 * Code in the manual works: TypeScript compiles, `ts run` prints what the next block says, quoted source is the source,
 * and scripts exist.
 */
import { execFile, type ExecFileException } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import ts from 'typescript'
import { type Block, blocksOf, readPages } from '../support/markdown.js'
import { inRepository } from '../support/paths.js'
import { typeErrors } from '../support/type-program.js'

/** What a block may use without declaring it: a guarded application, and what readers have themselves. */
const names = `
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import type { RedisGuardOptions } from 'fastify-redis-guard'

type Handler = (request: FastifyRequest<any>, reply: FastifyReply<any>) => Promise<unknown>

declare global {
  const Fastify: typeof import('fastify').default
  const redisGuard: typeof import('fastify-redis-guard').default
  const app: FastifyInstance
  const request: FastifyRequest
  const reply: FastifyReply
  const login: Handler
  const search: Handler
  const upload: Handler
  const rpc: Handler
  const handler: Handler
  const planOf: (key: string) => Promise<number> | number
  const root: string
  const secretToken: string
}
`

const blocks = (await readPages()).flatMap(blocksOf)
const programs = blocks.filter(({ language, note }) => language === 'ts' && (note === '' || note === 'run'))

t.test('each block of TypeScript compiles', t => {
  t.ok(programs.length > 20)
  const sources = Object.fromEntries(programs.map(({ code }, index) => [`block-${index}.ts`, `${code}\nexport {}\n`]))
  const wrong = 'const limit: string = app.redisGuard'
  const errors = typeErrors(inRepository('./'), {
    'names.d.ts': names,
    ...sources,
    'wrong.ts': `${wrong}\nexport {}\n`
  }, /\/dist\/lib\/index\.d\.ts$/)
  const [planted, ...others] = errors.toSorted((a, b) => Number(b.startsWith(wrong)) - Number(a.startsWith(wrong)))
  t.match(planted, wrong, 'a wrong line is found')
  t.same(others, [])
  t.end()
})

t.test('each block that is marked to run prints what the next block shows', async t => {
  const folder = await mkdtemp(inRepository('dist/manual-'))
  t.teardown(async () => await rm(folder, { recursive: true }))
  const run = blocks.filter(({ note }) => note === 'run')
  t.ok(run.length > 2)
  await Promise.all(run.map(async (block, index) => {
    const next = blocks[blocks.indexOf(block) + 1]
    t.match(next, { language: 'text', note: 'output' }, `output follows ${block.place}`)
    t.equal(await outputOf(block, join(folder, `${index}.mjs`)), next?.code, block.place)
  }))
})

t.test('the costs by a body that the manual shows are never 0, whatever a client sends', async t => {
  const source = await readFile(inRepository('lib/settings/options.ts'), 'utf8')
  const costs = [...blocks.map(({ code }) => code), source].flatMap(text => {
    return [...text.matchAll(/cost: (request => .*body.*?),?\n/g)].map(([, cost]) => cost!)
  })
  t.ok(costs.length > 1)
  for (const cost of costs) {
    const ask = runInNewContext(cost) as (request: { readonly body: unknown }) => unknown
    const bodies = [[], { length: 0 }, null, undefined, '', 0, [1], [1, 2, 3]]
    t.same(bodies.map(body => ask({ body })), [1, 1, 1, 1, 1, 1, 1, 3], cost)
  }
})

t.test('quoted source stands in its file', async t => {
  const quoted = blocks.filter(({ note }) => note.includes('.'))
  t.ok(quoted.length > 0)
  for (const { code, note, place } of quoted) {
    const lines = (text: string) => text.split('\n').map(line => line.trim()).filter(line => line !== '').join('\n')
    t.ok(lines(await readFile(inRepository(note), 'utf8')).includes(lines(code)), place)
  }
})

t.test('commands of npm are scripts of the package', async t => {
  const { scripts } = JSON.parse(await readFile(inRepository('package.json'), 'utf8')) as {
    readonly scripts: Readonly<Record<string, string>>
  }
  const commands = blocks.filter(({ language }) => language === 'sh').flatMap(({ code, place }) => {
    return [...code.matchAll(/npm (?:run )?(start|test|[\w]+:?[\w]*)/g)].map(([, name]) => ({ name: name!, place }))
  }).filter(({ name }) => !['ci', 'init', 'install', 'pkg', 'uninstall'].includes(name))
  t.ok(commands.length > 2)
  for (const { name, place } of commands) t.ok(name in scripts, `${place}: ${name}`)
})

t.test('JavaScript and JSON can be read', t => {
  for (const { language, code, place } of blocks) {
    if (language === 'js') {
      const { diagnostics } = ts.transpileModule(code, { fileName: 'block.mjs', reportDiagnostics: true })
      t.same(diagnostics?.map(({ messageText }) => messageText), [], place)
    }
    if (language === 'json') t.doesNotThrow(() => JSON.parse(code), place)
  }
  t.end()
})

t.test('each block has a language that a test looks at', t => {
  const known = new Set(['ts', 'js', 'json', 'sh', 'http', 'text', 'yaml', 'promql'])
  for (const { language, note, place } of blocks) {
    t.ok(known.has(language), `${place}: ${language}`)
    if (language === 'yaml') t.match(note, '.', `${place}: yaml names the file that it stands in`)
  }
  t.end()
})

async function outputOf ({ code }: Block, file: string): Promise<string> {
  const { outputText } = ts.transpileModule(code, {
    compilerOptions: { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2023 }
  })
  await writeFile(file, outputText)
  // Without NODE_OPTIONS, in which tap has its loaders; and without what the guard reads.
  const env = { PATH: process.env['PATH'], HOME: process.env['HOME'] }
  return await new Promise(resolve => {
    execFile(process.execPath, [file], { env, timeout: 60_000 }, (error: ExecFileException | null, stdout, stderr) => {
      resolve(error === null ? stdout : `${stdout}${stderr}${error.message}`)
    })
  })
}
