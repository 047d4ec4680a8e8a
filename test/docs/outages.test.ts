/** An operator searches for the log lines, alerts and metrics that docs/outages.md quotes: each of them is real. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { described } from '../../lib/observers/metrics.js'
import { infoMetrics, upMetric } from '../../lib/observers/redis-info.js'
import { inRepository } from '../support/paths.js'

const page = await readFile(inRepository('docs/outages.md'), 'utf8')

/** Every literal of a source that is put together of several lines, in one. */
async function sourcesOf (folder: string): Promise<string> {
  const names = await readdir(inRepository(folder), { recursive: true })
  const files = names.filter(name => name.endsWith('.ts'))
  const texts = await Promise.all(files.map(async name => await readFile(join(inRepository(folder), name), 'utf8')))
  return texts.join('\n').replace(/['`] \+\n\s*['`]/g, '')
}

t.test('each log line begins like one in the source', async t => {
  const source = await sourcesOf('lib')
  const [, rows] = /<!-- log lines of outages -->\n\|.*\n\|.*\n((?:\|.*\n)+)/.exec(page)!
  const cells = rows!.split('\n').map(row => row.split('|')[2] ?? '')
  const messages = cells.flatMap(cell => [...cell.matchAll(/`([^`]+)`/g)].map(([, message]) => message!))
  t.ok(messages.length >= 9)
  const literalOf = (message: string) => message.replace(/<(\w+)>/, (placeholder, name) => `$\{${name}}`)
  for (const message of messages) t.ok(source.includes(literalOf(message)), message)
})

t.test('each alert is one of examples/prometheus', async t => {
  const alerts = await readFile(inRepository('examples/prometheus/alerts.yml'), 'utf8')
  const named = [...page.matchAll(/\bRedisGuard[A-Z]\w+/g)].map(([name]) => name)
  t.ok(named.length > 0)
  for (const name of named) t.ok(alerts.includes(`alert: ${name}\n`), name)
})

t.test('each metric exists', async t => {
  const metrics = [...Object.values(described), upMetric, ...infoMetrics].map(({ name }) => name)
  const named = [...page.matchAll(/\bredis_guard_\w+/g)].map(([name]) => name)
  t.ok(named.length > 0)
  t.same(named.filter(name => !metrics.includes(name)), [])
})
