/** An editor shows a doc comment for each export, member and option. Those of options agree with option-table.ts. */
import { readFile } from 'node:fs/promises'
import t from 'tap'
import ts from 'typescript'
import { channelNames } from '../lib/index.js'
import { limitOptions, type Option, pluginOptions, routeOptions } from '../lib/settings/option-table.js'
import { inRepository } from './support/paths.js'
import { typeErrors, typeProgram } from './support/type-program.js'

const folder = inRepository('test/')
const program = typeProgram(folder, {
  'all.ts': "import * as all from '../dist/lib/index.js'\nexport { all }",
  'route.ts': `
import Fastify from 'fastify'
import '../dist/lib/index.js'
Fastify().get('/', { config: { rateLimit: { max: 5, groupId: 'a', onOutage: 'share' } } }, async () => 'ok')
`
})
const checker = program.getTypeChecker()
const index = program.getSourceFiles().find(({ fileName }) => fileName.endsWith('/dist/lib/index.d.ts'))!
const exported = new Map(checker.getExportsOfModule(checker.getSymbolAtLocation(index)!).map(symbol => {
  return [symbol.name, symbol.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(symbol) : symbol]
}))

function isOurs (symbol: ts.Symbol): boolean {
  return symbol.declarations?.some(node => node.getSourceFile().fileName.includes('/dist/lib/')) ?? false
}

/** Whether a member is for users: private ones are not, nor is `sync` of LimitControl, which only the guard calls. */
function isPublic (symbol: ts.Symbol): boolean {
  return isOurs(symbol) && !symbol.name.includes('#') && symbol.name !== 'sync'
}

/** The members of a type that are declared in the package; of a union, those of each of its types. */
function membersOf (symbol: ts.Symbol): readonly ts.Symbol[] {
  if (!(symbol.flags & (ts.SymbolFlags.Class | ts.SymbolFlags.Interface | ts.SymbolFlags.TypeAlias))) return []
  const type = checker.getDeclaredTypeOfSymbol(symbol)
  const types = type.isUnion() ? type.types : [type]
  const isObject = (part: ts.Type) => (part.flags & (ts.TypeFlags.Object | ts.TypeFlags.Intersection)) !== 0
  return types.filter(isObject).flatMap(part => checker.getPropertiesOfType(part)).filter(isPublic)
}

function textOf (symbol: ts.Symbol): string {
  return ts.displayPartsToString(symbol.getDocumentationComment(checker)).replaceAll(/\s+/g, ' ').trim()
}

function tagsOf (symbol: ts.Symbol, tag: string): readonly string[] {
  return symbol.getJsDocTags(checker).filter(({ name }) => name === tag)
    .map(({ text }) => ts.displayPartsToString(text))
}

t.test('every export has a doc comment, and so has each of its members', async t => {
  t.ok(exported.size > 50)
  const without: string[] = []
  for (const [name, symbol] of exported) {
    if (textOf(symbol) === '') without.push(name)
    for (const member of membersOf(symbol)) if (textOf(member) === '') without.push(`${name}.${member.name}`)
  }
  t.same(without, [])
})

const declared: Readonly<Record<string, Readonly<Record<string, Option>>>> = {
  RedisGuardOptions: { ...limitOptions, ...pluginOptions },
  RouteRateLimitOptions: { ...limitOptions, ...routeOptions }
}

for (const [type, options] of Object.entries(declared)) {
  t.test(`the doc comments of ${type} begin with the description and rule in option-table.ts`, async t => {
    const members = new Map(membersOf(exported.get(type)!).map(member => [member.name, member]))
    t.same([...members.keys()].sort(), Object.keys(options).sort())
    for (const [name, { value: { rule }, description, shown }] of Object.entries(options)) {
      const text = textOf(members.get(name)!)
      const begin = `${description}. ${rule.charAt(0).toUpperCase()}${rule.slice(1)}.`
      t.equal(text.slice(0, begin.length), begin, name)
      t.same(tagsOf(members.get(name)!, 'default'), [shown.replaceAll('`', '')], name)
    }
  })
}

t.test("an editor that points at an option in a route's config shows its doc comment", async t => {
  const options: ts.PropertyAssignment[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isPropertyAssignment(node) && ts.isLiteralExpression(node.initializer)) options.push(node)
    ts.forEachChild(node, visit)
  }
  visit(program.getSourceFile(`${folder}route.ts`)!)
  t.equal(options.length, 3)
  for (const option of options) {
    // An editor looks here, and shows nothing where it finds two declarations.
    const type = checker.getContextualType(option.parent)!
    const name = option.name.getText()
    const found = (type.isUnion() ? type.types : [type]).map(part => part.getProperty(name)).filter(symbol => symbol)
    t.equal(new Set(found).size, 1, name)
    t.not(textOf(found[0]!), '', name)
  }
})

/** The types whose methods have an example. */
const withExamples = ['RedisGuard', 'LimitControl']

t.test('every method of the client has an example, and all examples compile', async t => {
  const sources: Record<string, string> = {}
  for (const name of withExamples) {
    const symbol = exported.get(name)!
    const methods = membersOf(symbol).filter(member => member.flags & ts.SymbolFlags.Method)
    t.ok(methods.length > 3)
    for (const method of methods) {
      const examples = tagsOf(method, 'example')
      t.equal(examples.length, 1, `${name}.${method.name}`)
      sources[`${name}-${method.name}.ts`] = [
        "import type { FastifyInstance } from 'fastify'",
        "import '../dist/lib/index.js'",
        'declare const app: FastifyInstance',
        ...examples,
        'export {}'
      ].join('\n')
    }
  }
  for (const type of Object.keys(declared)) {
    for (const option of membersOf(exported.get(type)!)) {
      tagsOf(option, 'example').forEach((example, i) => {
        sources[`${type}-${option.name}-${i}.ts`] = [
          `import type { ${type} } from '../dist/lib/index.js'`,
          'declare function planOf (key: string): Promise<number>',
          `export const options: ${type} = {`,
          example,
          '}'
        ].join('\n')
      })
    }
  }
  t.same(typeErrors(folder, sources, /\/dist\/lib\/index\.d\.ts$/), [])
})

t.test('docs/api.md names every export, error code, channel and method', async t => {
  const page = await readFile(inRepository('docs/api.md'), 'utf8')
  const { types } = checker.getDeclaredTypeOfSymbol(exported.get('GuardErrorCode')!) as ts.UnionType
  const codes = types.map(type => (type as ts.StringLiteralType).value)
  t.ok(codes.length > 5)
  const methods = ['RedisGuard', 'LimitControl'].flatMap(name => membersOf(exported.get(name)!)).map(({ name }) => name)
  const names = [...exported.keys(), ...codes, ...methods, ...Object.values(channelNames)]
  t.same(names.filter(name => name !== 'default' && !new RegExp(`\\b${name}\\b`).test(page)), [])
})
