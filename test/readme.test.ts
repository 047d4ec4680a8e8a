/** README's tables say what the code does. `UPDATE=1 npx tap dist/test/readme.test.js` writes them anew. */
import { access, readdir, readFile, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { runInNewContext } from 'node:vm'
import Fastify from 'fastify'
import t from 'tap'
import { variables } from '../lib/settings/environment.js'
import redisGuard from '../lib/index.js'
import { described } from '../lib/observers/metrics.js'
import { infoMetrics, upMetric } from '../lib/observers/redis-info.js'
import { limitOptions, type Option, pluginOptions, routeOptions } from '../lib/settings/option-table.js'
import { inRepository } from './support/paths.js'

const file = inRepository('README.md')
const readme = await readFile(file, 'utf8')

const cell = (text: string) => text.replaceAll('|', '\\|')

const optionRows = (options: Readonly<Record<string, Option>>) =>
  Object.entries(options).map(([name, { shown, value, description }]) =>
    `| \`${name}\` | ${shown} | ${cell(description)}. ${cell(capital(value.rule))} |`)

const tables: Record<string, readonly string[]> = {
  'limit options': optionRows(limitOptions),
  'route options': optionRows(routeOptions),
  'plugin options': optionRows(pluginOptions),
  variables: Object.entries(variables).map(([name, { rule, description }]) => {
    return `| \`${name}\` | ${cell(rule)} | ${cell(description)} |`
  }),
  metrics: [...Object.values(described), upMetric, ...infoMetrics].map(({ name, labels, help }) =>
    `| \`${name}\` | ${labels.map(label => `\`${label}\``).join(', ')} | ${cell(help)} |`)
}

if (process.env['UPDATE'] === '1') {
  let updated = readme
  for (const [name, rows] of Object.entries(tables)) {
    updated = updated.replace(tableAfter(name), (table, head: string) => `${head}${rows.join('\n')}\n`)
  }
  await writeFile(file, updated)
}

for (const [name, rows] of Object.entries(tables)) {
  t.test(`the table of ${name} has every row, and no other`, async t => {
    const found = tableAfter(name).exec(await readFile(file, 'utf8'))
    t.same(found?.[2]?.trimEnd().split('\n'), rows)
  })
}

t.test('the precedence reads as in the source', async t => {
  const source = await readFile(inRepository('lib/guard/guard.ts'), 'utf8')
  const shown = /^```ts\n(decide \(.*?\n)```$/ms.exec(readme)?.[1] ?? ''
  t.match(shown, /^decide .*\}\n$/s)
  t.ok(source.includes(shown.replace(/^(?=.)/gm, '  ')), shown)
})

t.test('every method of the client is in the table of methods, and every other public name in the text', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { redis: false })
  const prototype = Object.getPrototypeOf(app.redisGuard)
  const methods = Object.getOwnPropertyNames(prototype).filter(name => name !== 'constructor' && name !== 'status')
  const listed = [...readme.matchAll(/^\| `(\w+)\([^|]*\)` \|/gm)].map(([, name]) => name)
  t.same(listed.toSorted(), methods.toSorted())
  t.equal(methods.length, 14)
  for (const name of ['status', 'client', 'warnings']) t.match(readme, `redisGuard.${name}`)
})

t.test('the table of warnings has every code, and no other', async t => {
  const startup = inRepository('lib/startup')
  const sources = await Promise.all(['warnings.ts', 'memory-watch.ts'].map(async name => {
    return await readFile(join(startup, name), 'utf8')
  }))
  const codes = new Set(sources.flatMap(source => source.match(/GUARD_WARN_\w+/g) ?? []))
  const [, , rows] = tableAfter('warnings').exec(readme)!
  t.same([...rows!.matchAll(/^\| `(\w+)` \|/gm)].map(([, code]) => code).sort(), [...codes].sort())
})

t.test('the examples leave no client a cost of 0, nor an account a second quota, whatever its body is', async t => {
  const source = await readFile(inRepository('lib/settings/options.ts'), 'utf8')
  const find = (text: string, pattern: RegExp) => {
    const [, example] = pattern.exec(text)!
    return runInNewContext(example!) as (request: { body: unknown }) => unknown
  }
  for (const cost of [readme, source].map(text => find(text, /cost: (request => .*body.*?),?\n/))) {
    const bodies = [[], { length: 0 }, null, undefined, '', 0, [1], [1, 2, 3]]
    t.same(bodies.map(body => cost({ body })), [1, 1, 1, 1, 1, 1, 1, 3])
  }
  const account = find(readme, /keyGenerator: (request => .*body.*)\n/)
  const emails = ['a@x', ' A@x ', ['a@x'], undefined, null]
  t.same(emails.map(email => account({ body: { email } })), ['a@x', 'a@x', 'a@x', '', ''])
  t.same([null, undefined, 'text'].map(body => account({ body })), ['', '', ''])
})

t.test('the links to files lead somewhere', async t => {
  const docs = inRepository('docs')
  const pages = [file, ...(await readdir(docs)).map(name => join(docs, name))]
  t.ok(pages.length > 1)
  for (const page of pages) {
    for (const [, path] of (await readFile(page, 'utf8')).matchAll(/\]\((?!https?:)([^)#]+)\)/g)) {
      await t.resolves(access(join(dirname(page), path!)), String(path))
    }
  }
})

/** Its marker and the two lines of its head, then its rows. */
function tableAfter (name: string): RegExp {
  return new RegExp(`(<!-- ${name} -->\\n\\|.*\\n\\|.*\\n)((?:\\|.*\\n)*)`)
}

function capital (text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
