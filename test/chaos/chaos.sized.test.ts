/** Faults of `npm run chaos`, each for a second: one of each kind in the small size, all of them in the full size. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { faults } from '../../chaos/faults.js'
import type { Row } from '../../chaos/report.js'
import { inRepository } from '../support/paths.js'
import { size } from '../support/size.js'

t.setTimeout(600_000)

/** Built by `npm test`. */
const program = inRepository('dist/chaos/index.js')

/** One of each kind: lost data, a hanging server, a bad connection, failovers, commands that fail. */
const chosen = [
  'kill -9, back empty', 'SIGSTOP', 'connections reset every 50 ms', 'Sentinel fail-over', 'Cluster, a primary lost',
  'out of memory'
]
const names = size(chosen, faults.map(({ name }) => name))
const [rate, seconds, atOnce] = [200, 1, size(3, 4)]

/** ms: less than the latency of the faults, and enough for a machine that runs all other tests. */
const commandTimeout = 900

/** ms. On a quiet machine the program itself judges times; here only an answer that never comes counts. */
const patienceMs = 30_000

const args = [
  '--json', '--at-once', `${atOnce}`, '--seconds', `${seconds}`, '--rate', `${rate}`, '--timeout', `${commandTimeout}`,
  ...names.flatMap(name => ['--fault', `=${name}`])
]
// If a play has misses, the program fails and prints the same JSON.
const { stdout, stderr } = await promisify(execFile)(process.execPath, [program, ...args], {
  maxBuffer: 16 * 1024 * 1024
}).catch((error: { stdout: string, stderr: string }) => error)

t.test('each requested fault is played once', async t => {
  t.match(stdout, /^\[/, { stderr })
  t.same((JSON.parse(stdout) as Row[]).map(({ fault }) => fault).sort(), [...names].sort())
})

for (const { fault: name, figures, misses, details } of JSON.parse(stdout) as Row[]) {
  t.test(`${name}: nothing is lost, and no request hangs`, async t => {
    t.same(misses.filter(({ isTime }) => !isTime), [], { figures, details })
    const { requests, slowestMs: { noticing, away }, recoveryMs } = figures
    t.ok(requests > 3 * seconds * rate, `${requests} requests`)
    const { noticedBy } = faults.find(fault => fault.name === name)!
    if (noticedBy.length > 0) t.type(away, 'number', 'the fault was noticed')
    for (const ms of [noticing, away, recoveryMs]) t.ok(ms === undefined || ms === null || ms < patienceMs, `${ms} ms`)
  })
}
