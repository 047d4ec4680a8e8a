/** Tables of the manual say what the code does. `UPDATE=1 npx tap dist/test/docs/tables.test.js` writes them again. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import Fastify from 'fastify'
import t from 'tap'
import redisGuard from '../../lib/index.js'
import { described } from '../../lib/observers/metrics.js'
import { infoMetrics, upMetric } from '../../lib/observers/redis-info.js'
import { variables } from '../../lib/settings/environment.js'
import { limitOptions, type Option, pluginOptions, routeOptions } from '../../lib/settings/option-table.js'
import { pageWith, readPages, tableAfter, writePage } from '../support/markdown.js'
import { inRepository } from '../support/paths.js'

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
  for (const [name, rows] of Object.entries(tables)) {
    const { path, text } = pageWith(await readPages(), name)
    await writePage({ path, text: text.replace(tableAfter(name), (_, head: string) => `${head}${rows.join('\n')}\n`) })
  }
}

const pages = await readPages()

for (const [name, rows] of Object.entries(tables)) {
  t.test(`the table of ${name} has a row for each of them, and no other row`, async t => {
    t.same(rowsAfter(name), rows)
  })
}

t.test('the page on the API lists each method of redisGuard, and names each property', async t => {
  const app = Fastify()
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { redis: false })
  const prototype = Object.getPrototypeOf(app.redisGuard)
  const methods = Object.getOwnPropertyNames(prototype).filter(name => name !== 'constructor' && name !== 'status')
  const { text } = pages.find(({ path }) => path === 'docs/api.md')!
  const listed = [...text.matchAll(/^\| `(\w+)\([^|]*\)` \|/gm)].map(([, name]) => name)
  t.same(listed.toSorted(), methods.toSorted())
  t.equal(methods.length, 14)
  for (const name of ['status', 'client', 'warnings', 'limits']) t.match(text, `redisGuard.${name}`)
})

t.test('the table of warnings has each code, and no other', async t => {
  const startup = inRepository('lib/startup')
  const sources = await Promise.all(['warnings.ts', 'memory-watch.ts'].map(async name => {
    return await readFile(join(startup, name), 'utf8')
  }))
  const codes = new Set(sources.flatMap(source => source.match(/GUARD_WARN_\w+/g) ?? []))
  t.same(rowsAfter('warnings').map(row => /^\| `(\w+)` \|/.exec(row)?.[1]).toSorted(), [...codes].toSorted())
})

function rowsAfter (marker: string): readonly string[] {
  const rows = tableAfter(marker).exec(pageWith(pages, marker).text)?.[2]
  if (rows === undefined) throw new Error(`no table stands after <!-- ${marker} -->`)
  return rows.trimEnd().split('\n')
}

function capital (text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
