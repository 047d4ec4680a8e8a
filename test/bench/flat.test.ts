import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import type { Look } from '../../bench/flat.js'
import { inRepository } from '../support/paths.js'
import { RedisServer } from '../support/redis-server.js'

/** The compiled one: it takes a process of its own, where nothing else keeps anything. */
const program = inRepository('dist/bench/flat.js')
const requests = 80_000
const looks = 8

t.test('heap and handles stay flat over requests from random addresses', async t => {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  for (const max of [1000, 0]) {
    const args = ['--expose-gc', program, '--requests', String(requests), '--looks', String(looks), '--max', String(max), '--redis', String(server.port)]
    const { stdout } = await promisify(execFile)(process.execPath, args, { timeout: 100_000, killSignal: 'SIGKILL' })
    const seen = stdout.trim().split('\n').map(line => JSON.parse(line) as Look)
    t.equal(seen.length, looks + 1)
    const least = (some: readonly Look[]) => Math.min(...some.map(({ bytes }) => bytes))
    const each = (least(seen.slice(-looks / 2)) - least(seen.slice(0, looks / 2))) / (requests / 2)
    t.comment(`max ${max}: ${each.toFixed(1)} bytes more for each request`)
    // What is remembered of 10,000 clients comes and goes, which is up to 70 bytes here; what stays of each request comes on top.
    t.ok(each < 100, `max ${max}: ${each} bytes more for each request`)
    t.ok(seen.at(-1)!.handles <= seen[0]!.handles + 2, `max ${max}: ${seen[0]!.handles} handles, then ${seen.at(-1)!.handles}`)
  }
})
