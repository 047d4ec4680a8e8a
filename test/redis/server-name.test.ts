/** TLS sends the name of the server (SNI), by which proxies and clouds route. */
import { once } from 'node:events'
import { connect } from 'node:net'
import { createServer, type TLSSocket } from 'node:tls'
import t, { type Test } from 'tap'
import type { RedisOption } from '../../lib/settings/redis-option.js'
import { guardedApp } from '../support/app.js'
import { Authority } from '../../tools/certificates.js'
import { RedisCluster } from '../../tools/redis-cluster.js'
import { RedisServer } from '../../tools/redis-server.js'
import { Sentinel, sentinelName } from '../../tools/sentinel.js'
import { until } from '../../tools/until.js'

// Each test has its own servers, and mostly waits for them.
t.jobs = 3

const authority = await Authority.create(t)
const certificate = await authority.issue({ names: 'DNS:localhost,DNS:redis.test,IP:127.0.0.1' })
const tls = { ca: authority.ca }

/** TLS in front of a real server; records the name that each connection sends (undefined: none). */
async function frontOf (t: Test, port: number) {
  const names: (string | undefined)[] = []
  const sockets = new Set<TLSSocket>()
  const server = createServer({ cert: certificate.cert, key: certificate.key }, socket => {
    sockets.add(socket)
    names.push(socket.servername || undefined)
    const behind = connect(port, '127.0.0.1')
    for (const [from, to] of [[socket, behind], [behind, socket]] as const) {
      from.on('error', () => {}).on('close', () => to.destroy()).pipe(to)
    }
  })
  server.on('tlsClientError', () => {})
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => {
    for (const socket of sockets) socket.destroy()
    server.close()
  })
  return { port: (server.address() as { port: number }).port, names }
}

async function startRedis (t: Test): Promise<RedisServer> {
  const server = await RedisServer.start()
  t.teardown(async () => await server.stop())
  return server
}

async function useRedis (t: Test, redis: RedisOption): Promise<void> {
  // Long enough that a busy machine is no outage.
  const app = await guardedApp(t, { redis, commandTimeout: 10_000, connectTimeout: 10_000 })
  await until(() => app.redisGuard.status.store === 'redis')
  await app.close()
}

t.test('sends the name of the server, and none if only its address is known', async t => {
  const { port, names } = await frontOf(t, (await startRedis(t)).port)
  const cases: [redis: RedisOption, name: string | undefined][] = [
    [{ url: `rediss://localhost:${port}`, tls }, 'localhost'],
    [{ url: `REDISS://127.0.0.1:${port}`, tls }, undefined],
    [{ host: 'localhost', port, tls }, 'localhost'],
    // The final dot is not part of the name in TLS.
    [{ host: 'redis.test.', port, tls: { ...tls, lookup: (host, options, done) => done(null, '127.0.0.1') } },
      'redis.test'],
    [{ port, tls }, 'localhost'],
    [{ host: 'localhost', port, tls: { ...tls, servername: undefined } }, 'localhost'],
    [{ host: 'localhost', port, credentials: () => ({ password: 'p' }), tls }, 'localhost']
  ]
  for (const [redis, name] of cases) {
    names.length = 0
    await useRedis(t, redis)
    t.same([...new Set(names)], [name])
  }
})

t.test("the user's servername wins, whatever the host is", async t => {
  const { port, names } = await frontOf(t, (await startRedis(t)).port)
  await useRedis(t, { host: 'localhost', port, tls: { ...tls, servername: 'redis.test' } })
  await useRedis(t, { host: '127.0.0.1', port, tls: { ...tls, servername: 'redis.test' } })
  t.same([...new Set(names)], ['redis.test'])
  names.length = 0
  await useRedis(t, { host: 'localhost', port, tls: { ...tls, servername: '' } })
  t.same([...new Set(names)], [undefined])
})

t.test('Cluster', async t => {
  const cluster = await RedisCluster.start({
    args: [
      '--cluster-announce-hostname', 'localhost', '--cluster-preferred-endpoint-type', 'hostname',
      // Long enough that no node is declared gone because it is slow.
      '--cluster-node-timeout', '60000'
    ]
  })
  t.teardown(async () => await cluster.stop())
  const operators = cluster.servers.map(server => server.client())
  t.teardown(() => operators.forEach(operator => operator.disconnect()))

  /** Puts a front before each node, reachable at this host, after all nodes announce that host. */
  async function frontsAt (t: Test, host: string) {
    await until(async () => {
      const ranges = await Promise.all(operators.map(async operator => await operator.call('CLUSTER', 'SLOTS')))
      return (ranges as [number, number, [string]][][]).flat().every(([,, [known]]) => known === host)
    })
    const fronts = await Promise.all(cluster.servers.map(async ({ port }) => await frontOf(t, port)))
    const natMap =
      Object.fromEntries(cluster.servers.map(({ port }, i) => [`${host}:${port}`, { host, port: fronts[i]!.port }]))
    return { natMap, port: fronts[0]!.port, names: () => [...new Set(fronts.flatMap(({ names }) => names))] }
  }

  t.test('sends each node its own name', async t => {
    const { port, natMap, names } = await frontsAt(t, 'localhost')
    await useRedis(t, { cluster: [{ host: 'localhost', port }], natMap, redisOptions: { tls } })
    t.same(names(), ['localhost'])
  })

  t.test('sends the first node its configured name, and the others their announced names', async t => {
    for (const operator of operators) await operator.config('SET', 'cluster-preferred-endpoint-type', 'ip')
    const { port, natMap, names } = await frontsAt(t, '127.0.0.1')
    await useRedis(t, { cluster: [`rediss://localhost:${port}`], natMap, redisOptions: { tls } })
    t.same(names().sort(), ['localhost', undefined])
  })
})

t.test('sends Sentinels and the primary that they name their own names', async t => {
  const server = await startRedis(t)
  const primary = await frontOf(t, server.port)
  const sentinel = await Sentinel.start(server.port, 60_000)
  t.teardown(async () => await sentinel.stop())
  const front = await frontOf(t, sentinel.port)
  const cases: [sentinel: string, primary: string][] = [['localhost', '127.0.0.1'], ['127.0.0.1', 'localhost']]
  for (const [sentinelHost, host] of cases) {
    front.names.length = 0
    primary.names.length = 0
    await useRedis(t, {
      sentinels: [{ host: sentinelHost, port: front.port }],
      name: sentinelName,
      natMap: { [`127.0.0.1:${server.port}`]: { host, port: primary.port } },
      updateSentinels: false,
      sentinelTLS: tls,
      tls
    })
    const nameOf = (host: string) => host === 'localhost' ? host : undefined
    t.same([[...new Set(front.names)], [...new Set(primary.names)]], [[nameOf(sentinelHost)], [nameOf(host)]])
  }
})
