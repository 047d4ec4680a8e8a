/** Every fault of `npm run chaos`, for a second each, in as many files as run side by side. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { faults } from '../../chaos/faults.js'
import { inRepository } from '../support/paths.js'
import type { Row } from '../../chaos/report.js'

const parts = 5

/** `npm test` has built what runs. */
const program = inRepository('dist/chaos/index.js')

/** What a machine may take that runs all other tests as well. */
const patienceMs = 4000

/** @param part  0 to 4 */
export function playPart (part: number): void {
  t.setTimeout(300_000)
  for (const { name } of faults.filter((_, i) => i % parts === part)) {
    t.test(name, async t => {
      // Where all is not as it must be, it fails and prints the same.
      const { stdout, stderr } = await promisify(execFile)(process.execPath, [program, '--json', '--seconds', '1', '--rate', '200', '--fault', `=${name}`])
        .catch((error: { stdout: string, stderr: string }) => error)
      const [row, ...others] = JSON.parse(stdout) as Row[]
      t.same([row!.fault, others.length], [name, 0])
      t.same(row!.misses.filter(({ isTime }) => !isTime), [], 'nothing is lost, and nobody hangs', { figures: row!.figures, output: stderr })
      const { requests, slowestMs: { noticing, away }, recoveryMs } = row!.figures
      t.ok(requests > 200, `${requests} requests`)
      for (const ms of [noticing, away, recoveryMs]) t.ok(ms === undefined || ms === null || ms < patienceMs, `${ms} ms`)
    })
  }
}
