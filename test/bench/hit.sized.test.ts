/** The cost of a hit: an allowed hit makes no more calls and closures than recorded here. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import type { Cost } from '../../bench/hit.js'
import { inRepository } from '../support/paths.js'

/** As measured; lower a number when a hit gets cheaper. */
const most: Readonly<Record<string, { readonly calls: number, readonly closures: number }>> = {
  memory: { calls: 92, closures: 0 },
  redis: { calls: 154.2, closures: 10 },
  'redis, 32 at once': { calls: 116.3, closures: 0.3 }
}

/** In memory the numbers are always the same. On Redis they include heartbeats, more of them on a busy machine. */
const marginOf = (store: string) => store === 'memory' ? 0.5 : 12

t.test('an allowed hit makes no more calls and closures than recorded', async t => {
  // The coverage of the test itself would be counted too.
  const { NODE_V8_COVERAGE, ...env } = process.env
  const flags = ['--no-opt', '--no-maglev', inRepository('dist/bench/hit.js'), '--calls-only']
  const { stdout } = await promisify(execFile)(process.execPath, flags, { env })
  const costs = stdout.trim().split('\n').map(line => JSON.parse(line) as Cost)
  t.same(costs.map(({ store }) => store), Object.keys(most))
  for (const { store, calls, closures } of costs) {
    const { calls: mostCalls, closures: mostClosures } = most[store]!
    const margin = marginOf(store)
    t.ok(calls <= mostCalls + margin, `${store}: ${calls} calls, at most ${mostCalls}`)
    t.ok(closures <= mostClosures + margin / 4, `${store}: ${closures} closures, at most ${mostClosures}`)
  }
})
