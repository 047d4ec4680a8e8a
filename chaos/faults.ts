/** The faults: how each breaks Redis on its own stage, and how that is mended. */
import { setTimeout as sleep } from 'node:timers/promises'
import type { Redis } from 'ioredis'
import type { RedisServer } from '../tools/redis-server.js'
import { until } from '../tools/until.js'
import type { InstanceProcess } from './instance-process.js'
import { ClusterStage, PasswordStage, SentinelStage, ServerStage, type Stage, TlsStage } from './stage.js'

/** Ends the fault; done when Redis is back. */
export type Mend = (instances: readonly InstanceProcess[]) => Promise<void> | void

/** Which data Redis loses by the fault. The instances must restore counters and blocks all the same. */
export type Loss = 'nothing' | 'latest writes' | 'everything'

export interface Fault {
  readonly name: string
  readonly loss: Loss
  /** only the first instance is cut off, so the second does not know which hits the first lets in */
  readonly seenByOne: boolean
  /** how long it lasts, ms, unless the command line says otherwise; undefined: the usual time */
  readonly holdMs: number | undefined
  /** instances that surely go to memory in the fault */
  readonly noticedBy: readonly number[]
  readonly start: () => Promise<StartedFault>
}

export interface StartedFault {
  readonly stage: Stage
  /** runs right before the fault */
  readonly prepare: () => Promise<void>
  readonly strike: (instances: readonly InstanceProcess[], loses: () => void) => Promise<Mend>
}

/** @param loses  called right before Redis loses data, if that is later than the beginning of the fault */
type Strike<S extends Stage> =
  (stage: S, instances: readonly InstanceProcess[], loses: () => void) => Promise<Mend> | Mend

/** ms that servers may take to agree: on a busy machine a Sentinel may pause for 30 s */
const patienceMs = 90_000

const withoutEviction = ['--maxmemory-policy', 'noeviction']

export const faults: readonly Fault[] = [
  fault('kill -9, back with its append-only file', started('--appendonly', 'yes'), async ({ server }) => {
    await server.kill()
    return async () => await server.restart()
  }),
  fault('kill -9, back empty', started(), async ({ server }) => {
    await server.kill()
    return async () => await server.restart()
  }, { loss: 'everything' }),
  fault('kill -9, back with an older snapshot, loading', started('--key-load-delay', '10000'), async ({ server }) => {
    await server.kill()
    return async () => await server.restart()
  }, {
    loss: 'latest writes',
    prepare: async stage => {
      await onServer(stage, async client => await client.save())
      // Writes that the snapshot does not have.
      await sleep(300)
    }
  }),
  fault('SIGSTOP', started(), ({ server }) => {
    server.signal('SIGSTOP')
    return () => server.signal('SIGCONT')
  }, { holdMs: 10_000 }),
  fault('connections reset every 50 ms', started(), ({ proxies }) => {
    for (const proxy of proxies) proxy.reset(50)
    return () => { for (const proxy of proxies) proxy.reset(undefined) }
  }),
  fault('1 s of latency', started(), ({ proxies }) => {
    for (const proxy of proxies) proxy.delayMs = 500
    return () => { for (const proxy of proxies) proxy.delayMs = 0 }
  }),
  fault('blackhole', started(), ({ proxies }) => {
    for (const proxy of proxies) proxy.blackhole = true
    return () => { for (const proxy of proxies) proxy.blackhole = false }
  }),
  fault('blackhole before one instance', started(), ({ proxies: [first] }) => {
    first!.blackhole = true
    return () => { first!.blackhole = false }
  }, { seenByOne: true, noticedBy: [0] }),
  fault('Sentinel fail-over', async () => await SentinelStage.start(), async ({ primary, replica, sentinel }) => {
    await primary.kill()
    return async () => {
      await until(async () => await sentinel.primaryPort() === replica.port, patienceMs)
      // As its replica.
      primary.launch()
    }
  }, { loss: 'latest writes' }),
  fault('Cluster, a primary lost', async () => await ClusterStage.start(), async ({ cluster }) => {
    const [lost, ...others] = cluster.servers
    await lost!.kill()
    return async () => {
      const replication = async () => await replyOf(others[2]!, async client => await client.info('replication'))
      await until(async () => /role:master/.test(await replication()), patienceMs)
      for (const server of others) {
        const state = async () => await replyOf(server, async client => String(await client.call('CLUSTER', 'INFO')))
        await until(async () => /cluster_state:ok/.test(await state()), patienceMs)
      }
    }
  }, { loss: 'latest writes' }),
  fault('Cluster, slots moved', async () => await ClusterStage.start(), async ({ cluster }) => {
    await moveSlots(cluster.servers[0]!, cluster.servers[1]!, 2000)
    return () => {}
  }, { noticedBy: [] }),
  fault('out of memory', started(...withoutEviction), async stage => {
    await onServer(stage, async client => await client.config('SET', 'maxmemory', '1'))
    return async () => await onServer(stage, async client => { await client.config('SET', 'maxmemory', '0') })
  }),
  fault('SCRIPT FLUSH every 100 ms', started(), async stage => {
    return await repeat(stage, 100, async client => await client.script('FLUSH'))
  }, { noticedBy: [] }),
  fault('FLUSHALL', started(), async stage => {
    await onServer(stage, async client => await client.flushall())
    return () => {}
  }, { loss: 'everything', noticedBy: [] }),
  fault('CLIENT KILL every 100 ms', started(), async stage => {
    return await repeat(stage, 100, async client => {
      return await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    })
  }, { noticedBy: [] }),
  fault('a replica, which takes no writes', started(), async stage => {
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
  fault('kill -9, back empty, and one instance cut off for longer', started(), async (stage, instances, loses) => {
    const { server, proxies: [first] } = stage
    first!.blackhole = true
    await until(async () => (await instances[0]!.standing()).store === 'memory', patienceMs)
    loses()
    await server.kill()
    return async () => {
      await server.restart()
      await until(async () => (await instances[1]!.standing()).store === 'redis', patienceMs)
      first!.blackhole = false
    }
  }, { loss: 'everything', seenByOne: true }),
  fault('out of memory, and connections reset every 50 ms', started(...withoutEviction), async stage => {
    await onServer(stage, async client => await client.config('SET', 'maxmemory', '1'))
    for (const proxy of stage.proxies) proxy.reset(50)
    return async () => {
      for (const proxy of stage.proxies) proxy.reset(undefined)
      await onServer(stage, async client => { await client.config('SET', 'maxmemory', '0') })
    }
  })
]

interface FaultOptions<S extends Stage> extends Partial<Pick<Fault, 'loss' | 'seenByOne' | 'holdMs' | 'noticedBy'>> {
  readonly prepare?: (stage: S) => Promise<void>
}

function fault<S extends Stage> (name: string, startStage: () => Promise<S>, strike: Strike<S>, {
  loss = 'nothing', seenByOne = false, noticedBy = [0, 1], holdMs, prepare = async () => {}
}: FaultOptions<S> = {}): Fault {
  return {
    name,
    loss,
    seenByOne,
    noticedBy,
    holdMs,
    start: async () => {
      const stage = await startStage()
      return {
        stage,
        prepare: async () => await prepare(stage),
        strike: async (instances, loses) => await strike(stage, instances, loses)
      }
    }
  }
}

function started (...args: readonly string[]): () => Promise<ServerStage> {
  return async () => await ServerStage.start(...args)
}

async function onServer (stage: ServerStage, action: (client: Redis) => Promise<unknown>): Promise<void> {
  const client = stage.client()
  try {
    await action(client)
  } finally {
    client.disconnect()
  }
}

/** Repeats an action. @returns a function that runs it a last time and ends it */
async function repeat (
  stage: ServerStage,
  everyMs: number,
  action: (client: Redis) => Promise<unknown>
): Promise<Mend> {
  const client = stage.client()
  await action(client)
  const timer = setInterval(() => { action(client).catch((error: unknown) => { throw error }) }, everyMs)
  return async () => {
    clearInterval(timer)
    await action(client)
    client.disconnect()
  }
}

async function replyOf<T> (server: RedisServer, question: (client: Redis) => Promise<T>): Promise<T> {
  const client = server.client()
  try {
    return await question(client)
  } finally {
    client.disconnect()
  }
}

/** Moves the first slots of one node to another, with their keys, as `redis-cli --cluster reshard` does. */
async function moveSlots (from: RedisServer, to: RedisServer, count: number): Promise<void> {
  const [source, target] = [from.client(), to.client()]
  try {
    const [sourceId, targetId] = [
      String(await source.call('CLUSTER', 'MYID')),
      String(await target.call('CLUSTER', 'MYID'))
    ]
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
