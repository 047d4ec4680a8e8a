/** What is done to Redis, each to a stage of its own, and how it is mended. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import type { RedisServer } from '../test/support/redis-server.js'
import { until } from '../test/support/until.js'
import type { InstanceProcess } from './instance-process.js'
import { ClusterStage, PasswordStage, SentinelStage, ServerStage, type Stage, TlsStage } from './stage.js'

/** Ends the fault; done when Redis is back. */
export type Mend = (instances: readonly InstanceProcess[]) => Promise<void> | void

/** What Redis itself forgets by the fault; counters and blocks have to be there all the same. */
export type Loss = 'nothing' | 'latest writes' | 'everything'

export interface Fault {
  readonly name: string
  readonly loss: Loss
  /** only the first instance sees it, so that the second does not know what the first lets in */
  readonly seenByOne: boolean
  /** while it lasts, unless the command line says otherwise */
  readonly holdMs: number | undefined
  readonly start: () => Promise<{ readonly stage: Stage, readonly strike: () => Promise<Mend> }>
}

export const faults: readonly Fault[] = [
  fault('kill -9, back with its append-only file', async () => await ServerStage.start('--appendonly', 'yes'), async ({ server }) => {
    await server.kill()
    return async () => await server.restart()
  }),
  fault('kill -9, back empty', async () => await ServerStage.start(), async ({ server }) => {
    await server.kill()
    return async () => await server.restart()
  }, { loss: 'everything' }),
  fault('kill -9, back with an older snapshot, loading', async () => await ServerStage.start('--key-load-delay', '10000'), async stage => {
    await onServer(stage, async client => await client.save())
    await sleep(300)
    await stage.server.kill()
    return async () => await stage.server.restart()
  }, { loss: 'latest writes' }),
  fault('SIGSTOP', async () => await ServerStage.start(), ({ server }) => {
    server.signal('SIGSTOP')
    return () => server.signal('SIGCONT')
  }, { holdMs: 10_000 }),
  fault('connections reset every 50 ms', async () => await ServerStage.start(), ({ proxies }) => {
    for (const proxy of proxies) proxy.reset(50)
    return () => { for (const proxy of proxies) proxy.reset(undefined) }
  }),
  fault('1 s of latency', async () => await ServerStage.start(), ({ proxies }) => {
    for (const proxy of proxies) proxy.delayMs = 500
    return () => { for (const proxy of proxies) proxy.delayMs = 0 }
  }),
  fault('blackhole', async () => await ServerStage.start(), ({ proxies }) => {
    for (const proxy of proxies) proxy.blackhole = true
    return () => { for (const proxy of proxies) proxy.blackhole = false }
  }),
  fault('blackhole before one instance', async () => await ServerStage.start(), ({ proxies: [first] }) => {
    first!.blackhole = true
    return () => { first!.blackhole = false }
  }, { seenByOne: true }),
  fault('Sentinel fail-over', async () => await SentinelStage.start(), async ({ primary, replica, sentinel }) => {
    await primary.kill()
    return async () => {
      await until(async () => await sentinel.primaryPort() === replica.port, 20_000)
      // As its replica.
      primary.launch()
    }
  }, { loss: 'latest writes' }),
  fault('Cluster, a primary lost', async () => await ClusterStage.start(), async ({ cluster }) => {
    const [lost, ...others] = cluster.servers
    await lost!.kill()
    return async () => {
      await until(async () => /role:master/.test(await told(others[2]!, async client => await client.info('replication'))), 30_000)
      for (const server of others) await until(async () => /cluster_state:ok/.test(await told(server, async client => String(await client.call('CLUSTER', 'INFO')))), 30_000)
    }
  }, { loss: 'latest writes' }),
  fault('Cluster, slots moved', async () => await ClusterStage.start(), async ({ cluster }) => {
    await moveSlots(cluster.servers[0]!, cluster.servers[1]!, 2000)
    return () => {}
  }),
  fault('out of memory', async () => await ServerStage.start('--maxmemory-policy', 'noeviction'), async stage => {
    await onServer(stage, async client => await client.config('SET', 'maxmemory', '1'))
    return async () => await onServer(stage, async client => { await client.config('SET', 'maxmemory', '0') })
  }),
  fault('SCRIPT FLUSH every 100 ms', async () => await ServerStage.start(), async stage => await repeat(stage, 100, async client => await client.script('FLUSH'))),
  fault('FLUSHALL', async () => await ServerStage.start(), async stage => {
    await onServer(stage, async client => await client.flushall())
    return () => {}
  }, { loss: 'everything' }),
  fault('CLIENT KILL every 100 ms', async () => await ServerStage.start(), async stage => await repeat(stage, 100, async client => await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes'))),
  fault('a replica, which takes no writes', async () => await ServerStage.start(), async stage => {
    await onServer(stage, async client => await client.replicaof('127.0.0.1', 1))
    return async () => await onServer(stage, async client => await client.call('REPLICAOF', 'NO', 'ONE'))
  }),
  fault('wrong password, then right', async () => await PasswordStage.start(), async stage => {
    await onServer(stage, async client => {
      await client.config('SET', 'requirepass', 'the second')
      await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    })
    stage.password = 'the second'
    return async instances => { for (const instance of instances) await instance.tellPassword(stage.password) }
  }),
  fault('TLS certificate replaced by one of an unknown authority', async () => await TlsStage.start(), async stage => {
    await stage.present(stage.unknown)
    for (const proxy of stage.proxies) proxy.cut()
    return async () => await stage.present(stage.trusted)
  }),
  fault('kill -9, back empty, and one instance cut off for longer', async () => await ServerStage.start(), async ({ server, proxies: [first] }) => {
    first!.blackhole = true
    await sleep(500)
    await server.kill()
    return async () => {
      await server.restart()
      await sleep(1000)
      first!.blackhole = false
    }
  }, { loss: 'everything', seenByOne: true }),
  fault('out of memory, and connections reset every 50 ms', async () => await ServerStage.start('--maxmemory-policy', 'noeviction'), async stage => {
    await onServer(stage, async client => await client.config('SET', 'maxmemory', '1'))
    for (const proxy of stage.proxies) proxy.reset(50)
    return async () => {
      for (const proxy of stage.proxies) proxy.reset(undefined)
      await onServer(stage, async client => { await client.config('SET', 'maxmemory', '0') })
    }
  })
]

function fault<S extends Stage> (name: string, startStage: () => Promise<S>, strike: (stage: S) => Promise<Mend> | Mend,
  { loss = 'nothing', seenByOne = false, holdMs }: Partial<Pick<Fault, 'loss' | 'seenByOne' | 'holdMs'>> = {}): Fault {
  return {
    name,
    loss,
    seenByOne,
    holdMs,
    start: async () => {
      const stage = await startStage()
      return { stage, strike: async () => await strike(stage) }
    }
  }
}

async function onServer (stage: ServerStage, action: (client: Redis) => Promise<unknown>): Promise<void> {
  const client = stage.client()
  try {
    await action(client)
  } finally {
    client.disconnect()
  }
}

/** @returns what ends it, after a last time */
async function repeat (stage: ServerStage, everyMs: number, action: (client: Redis) => Promise<unknown>): Promise<Mend> {
  const client = stage.client()
  await action(client)
  const timer = setInterval(() => { action(client).catch((error: unknown) => { throw error }) }, everyMs)
  return async () => {
    clearInterval(timer)
    await action(client)
    client.disconnect()
  }
}

async function told<T> (server: RedisServer, question: (client: Redis) => Promise<T>): Promise<T> {
  const client = server.client()
  try {
    return await question(client)
  } finally {
    client.disconnect()
  }
}

/** The first slots of one node to another, with their keys, as `redis-cli --cluster reshard` does it. */
async function moveSlots (from: RedisServer, to: RedisServer, count: number): Promise<void> {
  const [source, target] = [from.client(), to.client()]
  try {
    const [sourceId, targetId] = [String(await source.call('CLUSTER', 'MYID')), String(await target.call('CLUSTER', 'MYID'))]
    for (let slot = 0; slot < count; slot++) {
      await target.call('CLUSTER', 'SETSLOT', slot, 'IMPORTING', sourceId)
      await source.call('CLUSTER', 'SETSLOT', slot, 'MIGRATING', targetId)
      for (;;) {
        const keys = await source.call('CLUSTER', 'GETKEYSINSLOT', slot, 100) as string[]
        if (keys.length === 0) break
        await source.call('MIGRATE', '127.0.0.1', to.port, '', 0, 1000, 'KEYS', ...keys)
      }
      await target.call('CLUSTER', 'SETSLOT', slot, 'NODE', targetId)
      await source.call('CLUSTER', 'SETSLOT', slot, 'NODE', targetId)
    }
  } finally {
    source.disconnect()
    target.disconnect()
  }
}
