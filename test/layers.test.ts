/** The rows of CONTRIBUTING.md: each file of lib imports only from its own row or from rows above it. */
import { readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import t from 'tap'
import { inRepository } from './support/paths.js'

/** Each file imports only from its own row, or from rows above it. A name with a slash at its end is a folder. */
const rows: readonly (readonly string[])[] = [
  ['errors.ts', 'awaitable.ts', 'async-context.ts', 'clock.ts', 'near-name.ts', 'timers.ts', 'safe-log.ts', 'shared-listener.ts', 'rules/'],
  ['options.ts', 'settings.ts', 'host-options.ts', 'option-rules.ts', 'redis-option.ts', 'redis-rules.ts', 'redis-url.ts', 'env.ts', 'store/store.ts'],
  ['redis/', 'store/lua/', 'store/keys.ts', 'store/memory.ts', 'store/limit-table.ts', 'store/event-ring.ts', 'store/block-values.ts', 'store/redis.ts', 'store/redis-values.ts', 'store/redis-blocks.ts', 'store/numbers.ts', 'store/own-keys.ts', 'store/replies.ts'],
  ['store/failover.ts', 'store/availability.ts', 'store/clock-offset.ts', 'store/failover-values.ts', 'store/custom.ts', 'store/journal.ts', 'store/counter-journal.ts', 'store/value-journal.ts', 'store/recovery.ts', 'store/shares.ts'],
  ['guard/', 'metrics/'],
  ['http/', 'compat/', 'admin/'],
  ['plugin.ts', 'closing.ts', 'cli/'],
  ['index.ts']
]

/** Packages that only the adapter to Redis may run; their types are for all. */
const ofRedis = ['ioredis', 'opossum']

interface Import {
  readonly from: string
  readonly typeOnly: boolean
}

function importsOf (source: string): Import[] {
  const statements = source.matchAll(/^(?:import|export)\s+(type\s)?(?:[^'";=]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/gm)
  return [...statements].map(([, type, from, dynamic]) => ({ from: (from ?? dynamic)!, typeOnly: type !== undefined }))
}

function rowOf (file: string): number {
  return rows.findIndex(names => names.some(name => name.endsWith('/') ? file.startsWith(name) : file === name))
}

/** @param sources  by path inside lib/ */
function violations (sources: Readonly<Record<string, string>>): string[] {
  return Object.entries(sources).flatMap(([file, source]) => {
    if (rowOf(file) === -1) return [`${file} is in no row`]
    return importsOf(source).flatMap(({ from, typeOnly }) => {
      if (!from.startsWith('.')) return !typeOnly && ofRedis.includes(from) && !file.startsWith('redis/') ? [`${file} runs ${from}`] : []
      const target = posix.join(posix.dirname(file), from).replace(/\.js$/, '.ts')
      if (sources[target] === undefined) return [`${file} imports ${target}, which is not there`]
      return rowOf(target) > rowOf(file) ? [`${file} imports ${target} from a row below`] : []
    })
  })
}

const lib = inRepository('lib')
const files = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts'))
const sources = Object.fromEntries(files.map(file => [file, readFileSync(posix.join(lib, file), 'utf8')]))

t.test('every file of lib imports only from its own row or rows above it', async t => {
  t.ok(files.length > 20)
  t.same(violations(sources), [])
})

t.test('every import of lib is seen', async t => {
  for (const [file, source] of Object.entries(sources)) {
    t.equal(importsOf(source).length, source.match(/\bfrom '|\bimport '|\bimport\('/g)?.length ?? 0, file)
  }
})

t.test('no file of lib depends on where it lies: in a bundle it lies elsewhere', async t => {
  for (const [file, source] of Object.entries(sources)) {
    t.notMatch(source, /\bimport\.meta\b|\b__(dirname|filename)\b|\bcreateRequire\b/, file)
  }
})

t.test('an import that breaks the rule is found', async t => {
  const cases: [sources: Record<string, string>, found: string[]][] = [
    [{ 'env.ts': "import { x } from './errors.js'\n", 'errors.ts': '' }, []],
    [{ 'errors.ts': "import { x } from './env.js'\n", 'env.ts': '' }, ['errors.ts imports env.ts from a row below']],
    [{ 'errors.ts': "import type { X } from './env.js'\n", 'env.ts': '' }, ['errors.ts imports env.ts from a row below']],
    [{ 'rules/a.ts': "import {\n  x\n} from '../store/store.js'\n", 'store/store.ts': '' }, ['rules/a.ts imports store/store.ts from a row below']],
    [{ 'guard/a.ts': "export { x } from '../http/b.js'\n", 'http/b.ts': '' }, ['guard/a.ts imports http/b.ts from a row below']],
    [{ 'guard/a.ts': "const x = await import('../plugin.js')\n", 'plugin.ts': '' }, ['guard/a.ts imports plugin.ts from a row below']],
    [{ 'store/redis.ts': "import { Redis } from 'ioredis'\n" }, ['store/redis.ts runs ioredis']],
    [{ 'guard/a.ts': "import CircuitBreaker, { type Options } from 'opossum'\n" }, ['guard/a.ts runs opossum']],
    [{ 'guard/a.ts': "import 'ioredis'\n" }, ['guard/a.ts runs ioredis']],
    [{ 'guard/a.ts': "import type { Redis } from 'ioredis'\n" }, []],
    [{ 'redis/a.ts': "import { Redis } from 'ioredis'\n" }, []],
    [{ 'utils.ts': '' }, ['utils.ts is in no row']],
    [{ 'store/other.ts': '' }, ['store/other.ts is in no row']],
    [{ 'env.ts': "import { x } from './gone.js'\n" }, ['env.ts imports gone.ts, which is not there']]
  ]
  for (const [made, found] of cases) t.same(violations(made), found, JSON.stringify(made))
})
