/** The table of rows in CONTRIBUTING.md: a file imports only from its own row or rows above, and never in a circle. */
import { readdirSync, readFileSync } from 'node:fs'
import { posix } from 'node:path'
import t from 'tap'
import { inRepository } from './support/paths.js'

/** The rooms of lib, by row. A name that ends in a slash is a folder; the longest matching name is the room. */
const rows: readonly (readonly string[])[] = [
  ['errors.ts', 'runtime/', 'rules/', 'addresses/'],
  ['settings/', 'store/'],
  ['redis/'],
  ['store/memory/', 'store/redis/'],
  ['outage/'],
  ['guard/', 'limits/', 'api/', 'observers/'],
  ['http/', 'compat/', 'admin/'],
  ['startup/', 'cli/'],
  ['plugin.ts', 'index.ts']
]

/** The folders from which each folder beside lib/ may import. */
const beside: Readonly<Record<string, readonly string[]>> = {
  lib: ['lib'],
  tools: ['tools', 'lib'],
  examples: ['examples'],
  bench: ['bench', 'tools', 'lib'],
  chaos: ['chaos', 'tools', 'lib'],
  test: ['test', 'examples', 'bench', 'chaos', 'tools', 'lib']
}

/** Packages that only the adapter to Redis may run; every file may use their types. */
const ofRedis = ['ioredis', 'opossum']

interface Import {
  readonly from: string
  readonly typeOnly: boolean
}

type Sources = Readonly<Record<string, string>>

/** The imports of each node, by name. */
type Graph = ReadonlyMap<string, ReadonlySet<string>>

function importsOf (source: string): Import[] {
  const statements =
    source.matchAll(/^(?:import|export)\s+(type\s)?(?:[^'";=]*?\sfrom\s+)?'([^']+)'|\bimport\('([^']+)'\)/gm)
  return [...statements].map(([, type, from, dynamic]) => ({ from: (from ?? dynamic)!, typeOnly: type !== undefined }))
}

/** @returns undefined: an import of a package */
function targetOf (file: string, from: string): string | undefined {
  return from.startsWith('.') ? posix.join(posix.dirname(file), from).replace(/\.js$/, '.ts') : undefined
}

/** @returns undefined: the file is in no room */
function roomOf (file: string): { readonly name: string, readonly row: number } | undefined {
  const isIn = (name: string) => name.endsWith('/') ? file.startsWith(name) : file === name
  const rooms = rows.flatMap((names, row) => names.filter(isIn).map(name => ({ name, row })))
  return rooms.sort((a, b) => b.name.length - a.name.length)[0]
}

/** @param sources  by path inside lib/ */
function violations (sources: Sources): string[] {
  return Object.entries(sources).flatMap(([file, source]) => {
    const room = roomOf(file)
    if (room === undefined) return [`${file} is in no row`]
    return importsOf(source).flatMap(({ from, typeOnly }) => {
      const target = targetOf(file, from)
      if (target === undefined) {
        return !typeOnly && ofRedis.includes(from) && room.name !== 'redis/' ? [`${file} runs ${from}`] : []
      }
      if (sources[target] === undefined) return [`${file} imports ${target}, which is not there`]
      return (roomOf(target)?.row ?? 0) > room.row ? [`${file} imports ${target} from a row below`] : []
    })
  })
}

/** The imports between files, including types. */
function fileGraph (sources: Sources): Graph {
  return new Map(Object.entries(sources).map(([file, source]) => {
    const targets = importsOf(source).map(({ from }) => targetOf(file, from))
    return [file, new Set(targets.filter(target => target !== undefined && sources[target] !== undefined) as string[])]
  }))
}

/** The imports between rooms of the same row. @param sources  by path inside lib/ */
function roomGraph (sources: Sources): Graph {
  const graph = new Map<string, Set<string>>()
  for (const [file, targets] of fileGraph(sources)) {
    for (const target of targets) {
      const [from, to] = [roomOf(file), roomOf(target)]
      if (from === undefined || to === undefined || from.name === to.name || from.row !== to.row) continue
      graph.set(from.name, (graph.get(from.name) ?? new Set()).add(to.name))
    }
  }
  return graph
}

/** @returns each set of nodes that reach one another, as `circle: a, b` */
function circles (graph: Graph): string[] {
  const reached = new Map([...graph.keys()].map(node => [node, reachedFrom(graph, node)]))
  const together = [...reached].map(([node, targets]) => [...targets].filter(target => reached.get(target)?.has(node)))
  return [...new Set(together.filter(nodes => nodes.length > 0).map(nodes => `circle: ${nodes.sort().join(', ')}`))]
}

/** The nodes that can be reached from a node. It contains the node itself only if that is in a circle. */
function reachedFrom (graph: Graph, start: string): ReadonlySet<string> {
  const reached = new Set<string>()
  const waiting = [start]
  while (waiting.length > 0) {
    for (const target of graph.get(waiting.pop()!) ?? []) {
      if (reached.has(target)) continue
      reached.add(target)
      waiting.push(target)
    }
  }
  return reached
}

/** @param sources  by path from the root of the repository */
function strayImports (sources: Sources): string[] {
  const folderOf = (file: string) => file.slice(0, file.indexOf('/'))
  return [...fileGraph(sources)].flatMap(([file, targets]) => {
    const allowed = beside[folderOf(file)] ?? []
    return [...targets].filter(target => !allowed.includes(folderOf(target))).map(target => `${file} imports ${target}`)
  })
}

/** Top-level declarations that can change. A constant table has a read-only type. */
function stateOf (file: string, source: string): string[] {
  const mutable = /^(?:export )?(?:(?:let|var) .*|const [^=]*= new (?:Weak)?(?:Map|Set)\b.*)$/gm
  const constant = /^(?:export )?const \w+: Readonly(?:Map|Set)</
  const declarations = source.match(mutable) ?? []
  return declarations.filter(line => !constant.test(line)).map(line => `${file}: ${line}`)
}

/** @returns by path inside the folder */
function sourcesIn (folder: string): Sources {
  const root = inRepository(folder)
  const files = readdirSync(root, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.ts'))
  return Object.fromEntries(files.map(file => [file, readFileSync(posix.join(root, file), 'utf8')]))
}

const sources = sourcesIn('lib')
const all = Object.fromEntries(Object.keys(beside).flatMap(folder =>
  Object.entries(sourcesIn(folder)).map(([file, source]) => [`${folder}/${file}`, source])))

t.test('every file of lib imports only from its own row or rows above', async t => {
  t.ok(Object.keys(sources).length > 20)
  t.same(violations(sources).sort(), [])
})

t.test('no file imports itself through others, not even types', async t => {
  t.ok(Object.keys(all).length > 200)
  t.same(circles(fileGraph(all)), [])
})

t.test('no two rooms of one row import each other', async t => {
  t.same(circles(roomGraph(sources)), [])
})

t.test('tests, bench and chaos share only the files in tools', async t => {
  t.same(strayImports(all), [])
})

t.test('only rules/ and the declaration of the option name an algorithm; all others ask its rule', async t => {
  const naming = Object.keys(sources).filter(file => /'(fixed-window|sliding-window|gcra)'/.test(sources[file] ?? ''))
  // scripts.ts contains the Lua of the rules.
  const others = naming.filter(file => !file.startsWith('rules/') && file !== 'store/redis/lua/scripts.ts')
  t.same(others, ['settings/option-table.ts', 'settings/options.ts'])
  t.ok(naming.includes('rules/algorithms.ts'))
})

t.test('the check sees every import of lib', async t => {
  for (const [file, source] of Object.entries(sources)) {
    // Without the lines of doc comments, whose examples import the package.
    const code = source.replaceAll(/^ *\* .*$/gm, '')
    t.equal(importsOf(source).length, code.match(/\bfrom '|\bimport '|\bimport\('/g)?.length ?? 0, file)
  }
})

t.test('no file of lib depends on its location, which differs in a bundle', async t => {
  for (const [file, source] of Object.entries(sources)) {
    t.notMatch(source, /\bimport\.meta\b|\b__(dirname|filename)\b|\bcreateRequire\b/, file)
  }
})

t.test('no file of lib has module-level state, which copies and applications would share or miss', async t => {
  t.same(Object.entries(sources).flatMap(([file, source]) => stateOf(file, source)).sort(), [])
})

t.test('finds module-level state', async t => {
  const cases: [source: string, found: string[]][] = [
    ['let count = 0\n', ['a.ts: let count = 0']],
    ['export let count = 0\n', ['a.ts: export let count = 0']],
    ['var count = 0\n', ['a.ts: var count = 0']],
    ['const known = new Map<string, number>()\n', ['a.ts: const known = new Map<string, number>()']],
    ['export const known = new WeakSet()\n', ['a.ts: export const known = new WeakSet()']],
    ['const names: ReadonlySet<string> = new Set([\n', []],
    ["const names: ReadonlySet<string> = new Set(['a'])\n", []],
    ['function of () {\n  let count = 0\n  const known = new Map()\n}\n', []]
  ]
  for (const [source, found] of cases) t.same(stateOf('a.ts', source), found, source)
})

t.test('finds an import that breaks the rule', async t => {
  const cases: [sources: Record<string, string>, found: string[]][] = [
    [{ 'settings/a.ts': "import { x } from '../errors.js'\n", 'errors.ts': '' }, []],
    [{ 'errors.ts': "import { x } from './settings/a.js'\n", 'settings/a.ts': '' },
      ['errors.ts imports settings/a.ts from a row below']],
    [{ 'errors.ts': "import type { X } from './settings/a.js'\n", 'settings/a.ts': '' },
      ['errors.ts imports settings/a.ts from a row below']],
    [{ 'rules/a.ts': "import {\n  x\n} from '../store/keys.js'\n", 'store/keys.ts': '' },
      ['rules/a.ts imports store/keys.ts from a row below']],
    [{ 'store/keys.ts': "import { x } from './redis/a.js'\n", 'store/redis/a.ts': '' },
      ['store/keys.ts imports store/redis/a.ts from a row below']],
    [{ 'store/redis/a.ts': "import { x } from '../keys.js'\n", 'store/keys.ts': '' }, []],
    [{ 'redis/a.ts': "import { x } from '../store/redis/a.js'\n", 'store/redis/a.ts': '' },
      ['redis/a.ts imports store/redis/a.ts from a row below']],
    [{ 'guard/a.ts': "export { x } from '../http/b.js'\n", 'http/b.ts': '' },
      ['guard/a.ts imports http/b.ts from a row below']],
    [{ 'guard/a.ts': "const x = await import('../plugin.js')\n", 'plugin.ts': '' },
      ['guard/a.ts imports plugin.ts from a row below']],
    [{ 'store/redis/a.ts': "import { Redis } from 'ioredis'\n" }, ['store/redis/a.ts runs ioredis']],
    [{ 'guard/a.ts': "import CircuitBreaker, { type Options } from 'opossum'\n" }, ['guard/a.ts runs opossum']],
    [{ 'guard/a.ts': "import 'ioredis'\n" }, ['guard/a.ts runs ioredis']],
    [{ 'guard/a.ts': "import type { Redis } from 'ioredis'\n" }, []],
    [{ 'redis/a.ts': "import { Redis } from 'ioredis'\n" }, []],
    [{ 'utils.ts': '' }, ['utils.ts is in no row']],
    [{ 'metrics/other.ts': '' }, ['metrics/other.ts is in no row']],
    [{ 'settings/a.ts': "import { x } from './gone.js'\n" },
      ['settings/a.ts imports settings/gone.ts, which is not there']]
  ]
  for (const [made, found] of cases) t.same(violations(made), found, JSON.stringify(made))
})

t.test('finds circles of values and of types, between files and between rooms', async t => {
  const a = 'guard/a.ts'
  const cases: [sources: Record<string, string>, ofFiles: string[], ofRooms: string[]][] = [
    [{ [a]: "import { x } from './b.js'\n", 'guard/b.ts': '' }, [], []],
    [{ [a]: "import { x } from './b.js'\n", 'guard/b.ts': "import type { X } from './a.js'\n" },
      ['circle: guard/a.ts, guard/b.ts'], []],
    [
      {
        [a]: "export { x } from './b.js'\n",
        'guard/b.ts': "import './c.js'\n",
        'guard/c.ts': "import('./a.js')\n",
        'guard/d.ts': "import './a.js'\n"
      },
      ['circle: guard/a.ts, guard/b.ts, guard/c.ts'], []
    ],
    [
      {
        [a]: "import '../limits/a.js'\n",
        'limits/a.ts': '',
        'limits/b.ts': "import type { X } from '../guard/b.js'\n",
        'guard/b.ts': ''
      },
      [], ['circle: guard/, limits/']
    ]
  ]
  for (const [made, ofFiles, ofRooms] of cases) {
    t.same(circles(fileGraph(made)), ofFiles, JSON.stringify(made))
    t.same(circles(roomGraph(made)), ofRooms, JSON.stringify(made))
  }
})

t.test('finds an import that a folder beside lib may not use', async t => {
  const target = { 'tools/a.ts': '', 'test/a.ts': '' }
  t.same(strayImports({ ...target, 'bench/a.ts': "import '../tools/a.js'\n" }), [])
  t.same(strayImports({ ...target, 'bench/a.ts': "import '../test/a.js'\n" }), ['bench/a.ts imports test/a.ts'])
  t.same(strayImports({ ...target, 'lib/a.ts': "import '../tools/a.js'\n" }), ['lib/a.ts imports tools/a.ts'])
})
