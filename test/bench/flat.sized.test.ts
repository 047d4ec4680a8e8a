/** Memory and handles of a process that serves random addresses; `npm run bench:flat` runs it longer. */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import type { Look } from '../../bench/flat.js'
import { inRepository } from '../support/paths.js'
import { RedisServer } from '../../tools/redis-server.js'
import { size } from '../support/size.js'

t.setTimeout(600_000)

/** The compiled bench: it runs in its own process, where nothing else keeps memory. */
const program = inRepository('dist/bench/flat.js')

/** Enough requests to fill and empty a cache of 10,000 clients, so that each look finds it equally full. */
const step = 10_000
const looks = size(2, 8)

/** Bytes. A leaked address takes 90; over a longer time, more of the bounded memory comes and goes. */
const most = size(50, 80)

/** `1000,0` sends half of the requests to each of two routes. */
for (const max of size(['1000,0'], ['1000', '0'])) {
  t.test(`max ${max}: heap and handles stay flat over requests from random addresses`, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const args = [
      '--expose-gc', program, '--requests', `${looks * step}`, '--looks', `${looks}`, '--max', max, '--redis',
      `${server.port}`
    ]
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 500_000, killSignal: 'SIGKILL' })
    const seen = stdout.trim().split('\n').map(line => JSON.parse(line) as Look)
    t.equal(seen.length, looks + 1)
    const half = looks / 2
    const least = (some: readonly Look[]) => Math.min(...some.map(({ bytes }) => bytes))
    const each = (least(seen.slice(-half)) - least(seen.slice(0, half))) / ((half + 1) * step)
    t.comment(`${each.toFixed(1)} bytes more for each request`)
    t.ok(each < most, `${each} bytes more for each request`)
    t.ok(seen.at(-1)!.handles <= seen[0]!.handles + 2, `${seen[0]!.handles} handles, then ${seen.at(-1)!.handles}`)
  })
}
