/** A process whose application has closed ends by itself, whatever Redis does. */
import { performance } from 'node:perf_hooks'
import t from 'tap'
import { Instance } from '../support/instance.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'

// On a busy machine a new process is slow to connect and to get answers.
const options = { commandTimeout: 1000, connectTimeout: 10_000, resetTimeout: 100 }

/** Ten times as long as closing takes. A process that is kept alive never ends. */
const longestMs = 10 * 2 * options.commandTimeout

const states: readonly (readonly [name: string, begin: (server: RedisServer) => void])[] = [
  ['runs', () => {}],
  ['is gone', server => server.signal('SIGKILL')],
  ['hangs', server => server.signal('SIGSTOP')]
]

// These tests wait most of the time.
t.jobs = 3

const cluster = await RedisCluster.start()
t.teardown(async () => await cluster.stop())

for (const [name, begin] of states) {
  t.test(`ends the process when Redis ${name}`, { buffered: true }, async t => {
    const server = await RedisServer.start()
    t.teardown(async () => await server.stop())
    const redisOptions = name === 'hangs'
      ? [server.url, { cluster: cluster.servers.map(({ port }) => ({ host: '127.0.0.1', port })) }]
      : [server.url]
    const instances = await Promise.all(redisOptions.map(async redis => await Instance.start({ redis, ...options })))
    for (const instance of instances) t.equal(instance.store, 'redis')
    begin(server)
    if (name === 'hangs') cluster.servers.forEach(begin)
    await Promise.all(instances.map(async instance => await instance.get()))
    const startMs = performance.now()
    await Promise.all(instances.map(async instance => await instance.stop()))
    const tookMs = performance.now() - startMs
    t.ok(tookMs < longestMs, `${tookMs} ms`)
  })
}
