/** docs/metrics-and-alerts.md names every alert that we ship, and quotes alert rules and log lines as they are. */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import t from 'tap'
import { inRepository } from '../support/paths.js'

const page = await readFile(inRepository('docs/metrics-and-alerts.md'), 'utf8')
const alerts = await readFile(inRepository('examples/prometheus/alerts.yml'), 'utf8')

t.test('the table of alerts has every alert with its severity, and no other', async t => {
  const pairs = (text: string, pattern: RegExp) => [...text.matchAll(pattern)].map(([, ...pair]) => pair)
  const shipped = pairs(alerts, /- alert: (\w+)[^]*?severity: (\w+)/g)
  const listed = pairs(page, /^\| `(RedisGuard\w+)` \| (\w+) \|/gm)
  t.ok(shipped.length > 10)
  t.same(listed, shipped)
})

t.test('the rule that the page quotes is the one that we ship', async t => {
  const [, quoted] = /^```yaml.*\n(- alert: [^]*?)^```$/m.exec(page) ?? []
  t.ok(quoted)
  t.ok(alerts.includes(quoted!.replace(/^(?=.)/gm, '      ')))
})

t.test('the code writes each log line of the page', async t => {
  const lib = inRepository('lib')
  const names = (await readdir(lib, { recursive: true })).filter(name => name.endsWith('.ts'))
  const sources = await Promise.all(names.map(async name => await readFile(join(lib, name), 'utf8')))
  // Long messages are written in parts, over several lines.
  const code = sources.join('\n').replaceAll(/' \+\s+'/g, '').replaceAll("\\'", "'")
  const [, table] = /<!-- log lines -->\n\|.*\n\|.*\n((?:\|.*\n)+)/.exec(page) ?? []
  const lines = [...table!.matchAll(/^\| (.*?) \| \w+ \|/gm)].flatMap(([, cell]) => {
    return [...cell!.matchAll(/``? ?(.*?) ?``?(?=,|$)/g)].map(([, line]) => line!)
  })
  t.ok(lines.length > 10)
  for (const line of lines) for (const part of line.split('...')) t.ok(code.includes(part.trim()), line)
})
