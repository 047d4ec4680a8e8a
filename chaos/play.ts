/** Plays one fault: puts a service under load before, in and after it, and collects what was seen. */
import { setTimeout as sleep } from 'node:timers/promises'
import { Cluster, type Redis } from 'ioredis'
import { Child } from '../tools/child.js'
import { until } from '../tools/until.js'
import { nowMs } from './clock.js'
import type { RateLimitEvent } from '../lib/index.js'
import type { Fault } from './faults.js'
import type { InstanceState } from './instance.js'
import { InstanceProcess } from './instance-process.js'
import type { Answered, LoadAsk, LoadReport, LoadSettings } from './load.js'
import { blockedClient, instanceOptions, limitedMax, limitNames, openPath, orders, type Path } from './plan.js'
import { instanceCount } from './stage.js'

export interface PlayOptions {
  /** how long a fault lasts, ms; undefined: its own time, or `usualHoldMs` */
  readonly holdMs: number | undefined
  /** requests in a second, over all instances */
  readonly rate: number
  /** to each instance */
  readonly connections: number
  /** of the instances, ms; longer on a busy machine, where times do not count */
  readonly commandTimeout: number
}

/** The observations of one play. Times are ms since 1970. */
export interface Play {
  readonly fault: Fault
  readonly load: LoadReport
  readonly instances: readonly InstanceState[]
  /** from then on the servers count as warm */
  readonly warmMs: number
  readonly struckMs: number
  /** when Redis lost its data, where the fault makes it lose some */
  readonly lossMs: { readonly from: number, readonly until: number }
  /** Redis was back */
  readonly backMs: number
  /** when all instances used Redis again; undefined: one was still on memory at the end */
  readonly usedAgainMs: number | undefined
  /** ms until all was in Redis: counters and events from the last answer on, the rest from its use on */
  readonly replayedMs: number
  readonly commandTimeout: number
  /** entries that never reached Redis */
  readonly missing: {
    readonly blocks: readonly string[], readonly events: readonly string[], readonly values: readonly string[]
  }
  /** counters in Redis that differ from the answers at the end */
  readonly countersOff: readonly CounterOff[]
  /** refused requests without an event; NaN if Redis has lost events with its data */
  readonly eventsOff: number
}

export interface CounterOff {
  readonly key: string
  readonly counted: number
  /** the smallest right value */
  readonly least: number
  readonly most: number
}

const usualHoldMs = 3000

/** ms that a request may be sent late, and be on its way to Redis */
export const underWayMs = 20

/**
 * ms before the fault, for the first requests and for the normal state, and after it, with Redis in use again; no
 * longer than the fault lasts
 */
const warmUpMs = 1500
const calmMs = 2000
const afterMs = 2000

/** ms to wait for an instance to notice, to use Redis again, and to replay; judge.ts says what is too long */
const patienceMs = 60_000

/** @throws Error  if a process or a server does not start, or Redis does not come back */
export async function play (fault: Fault, options: PlayOptions): Promise<Play> {
  const { rate, connections, commandTimeout, holdMs = fault.holdMs ?? usualHoldMs } = options
  const { stage, prepare: prepareFault, strike } = await fault.start()
  const children: { stop: () => Promise<void> }[] = []
  let client: Redis | Cluster | undefined
  try {
    const starting = Array.from({ length: instanceCount }, async (_, i) => {
      const instance = await InstanceProcess.start({ ...stage.settingsOf(i), commandTimeout })
      children.push(instance)
      return instance
    })
    await Promise.allSettled(starting)
    const instances = await Promise.all(starting)
    const [first, second] = instances as [InstanceProcess, InstanceProcess]
    const settings: LoadSettings = { ports: instances.map(({ port }) => port), rate, connections }
    const load = await Child.start(undefined, loadFile, JSON.stringify(settings))
    children.push(load)

    await prepare(first, second)
    await load.ask<void>('start' satisfies LoadAsk)
    await sleep(Math.min(warmUpMs, holdMs))
    const warmMs = nowMs()
    await sleep(Math.min(calmMs, holdMs))
    await prepareFault()
    await settled(instances)

    const struckMs = nowMs()
    await load.ask<void>('struck' satisfies LoadAsk)
    let lossFromMs = struckMs
    const mend = await strike(instances, () => { lossFromMs = nowMs() })
    const lossUntilMs = nowMs()
    await noticed(fault.noticedBy.map(i => instances[i]!), struckMs)
    const orderedMs = Math.max(nowMs(), struckMs + holdMs / 2)
    await sleep(orderedMs - nowMs())
    await giveOrders(first, second)
    await sleep(orderedMs + holdMs / 2 - nowMs())
    await mend(instances)
    const backMs = nowMs()

    const usedAgainMs = await usedAgain([first, second], backMs)
    client = stage.client()
    const fromMs = usedAgainMs ?? backMs
    const missing = await missingAfter(client, [first, second], fault)
    const replayedMs = [nowMs() - fromMs]
    await sleep(Math.min(afterMs, holdMs))
    const report = await load.ask<LoadReport>('stop' satisfies LoadAsk)
    const stoppedMs = nowMs()
    // What was under way when an instance was cut off may have run in the Redis that lost its data later.
    const atMs = [{ fromMs: struckMs, untilMs: struckMs }, { fromMs: lossFromMs, untilMs: lossUntilMs }]
    const loss: Lost = { loss: fault.loss, atMs, givenUpMs: [] }
    if (client instanceof Cluster) {
      const standings = await Promise.all(instances.map(async instance => await instance.standing()))
      loss.givenUpMs = standings.map(({ switches }) => {
        return switches.filter(({ store }) => store === 'memory').map(({ atMs }) => atMs)
      })
    }
    const countersOff =
      await soon(async () => await compareCounters(client!, report.answered, loss), off => off.length === 0)
    const eventsOff = fault.loss === 'nothing'
      ? await soon(async () => await compareEvents(client!, report.answered), off => off === 0)
      : Number.NaN
    replayedMs.push(nowMs() - stoppedMs)
    const states = await settled(instances)
    return {
      fault,
      load: report,
      instances: states,
      warmMs,
      struckMs,
      lossMs: { from: lossFromMs, until: lossUntilMs },
      backMs,
      usedAgainMs,
      replayedMs: Math.max(...replayedMs),
      commandTimeout,
      missing,
      countersOff,
      eventsOff
    }
  } finally {
    client?.disconnect()
    for (const child of children) await child.stop()
    await stage.stop()
  }
}

interface Period {
  readonly fromMs: number
  readonly untilMs: number
}

/** What Redis lost, and when. */
interface Lost {
  readonly loss: Fault['loss']
  /** when the fault struck, and when data was lost */
  readonly atMs: readonly Period[]
  /** by instance: when it left a Cluster, of which it is unknown which of the requests under way it has run */
  givenUpMs: readonly (readonly number[])[]
}

/** Waits until all use Redis and have replayed their journals. @returns their states, even if they do not */
async function settled (instances: readonly InstanceProcess[]): Promise<InstanceState[]> {
  return await Promise.all(instances.map(async instance => (
    await soon(async () => await instance.state(), ({ store, journalEntries }) => {
      return store === 'redis' && journalEntries === 0
    })
  )))
}

/** Waits until these have left Redis for memory. */
async function noticed (instances: readonly InstanceProcess[], struckMs: number): Promise<void> {
  await Promise.all(instances.map(async instance => (
    await soon(async () => await instance.standing(), ({ switches }) => {
      return switches.some(({ atMs, store }) => store === 'memory' && atMs >= struckMs)
    })
  )))
}

const loadFile = new URL('./load.js', import.meta.url)

/** The data that both know before the fault; made once, so that no later order or look is slow as the first. */
async function prepare (first: InstanceProcess, second: InstanceProcess): Promise<void> {
  await settled([first, second])
  for (const instance of [first, second]) {
    for (const ip of ['203.0.113.9', '2001:db9::/32']) {
      await instance.call('blockIP', ip, 3600)
      await instance.call('unblockIP', ip)
    }
    await instance.call('logRateLimitEvent', { ip: '203.0.113.9' })
    await instance.call('incr', `${orders.sum.key}, to begin with`)
    await instance.state()
  }
  const { liftedByFirst, liftedBySecond, sum } = orders
  const blocked = [blockedClient, liftedByFirst, liftedBySecond]
  for (const ip of blocked) await first.call('blockIP', ip, 3600)
  for (let i = 0; i < sum.before; i++) await second.call('incr', sum.key)
  await until(async () => (await Promise.all(blocked.map(async ip => await isRefused(second, ip)))).every(Boolean))
}

async function giveOrders (first: InstanceProcess, second: InstanceProcess): Promise<void> {
  const { liftedByFirst, liftedBySecond, blockedByFirst, blockedBySecond, events, sum } = orders
  await first.call('unblockIP', liftedByFirst)
  await second.call('unblockIP', liftedBySecond)
  for (const ip of blockedByFirst) await first.call('blockIP', ip, 3600)
  for (const ip of blockedBySecond) await second.call('blockIP', ip, 3600)
  await first.call('logRateLimitEvent', events[0])
  await second.call('logRateLimitEvent', events[1])
  for (let i = 0; i < sum.first; i++) await first.call('incr', sum.key)
  for (let i = 0; i < sum.second; i++) await second.call('incr', sum.key)
}

/** Whether an instance refuses an address on a path without a limit. */
async function isRefused ({ port }: InstanceProcess, ip: string): Promise<boolean> {
  const { status } = await fetch(`http://127.0.0.1:${port}${openPath}`, { headers: { 'x-forwarded-for': ip } })
  return status === 403
}

/** When the last instance used Redis for good. */
async function usedAgain (instances: readonly InstanceProcess[], backMs: number): Promise<number | undefined> {
  const times = await Promise.all(instances.map(async instance => {
    const { store, switches } = await soon(async () => await instance.standing(), ({ store }) => store === 'redis')
    return store === 'redis' ? Math.max(backMs, switches.at(-1)?.atMs ?? backMs) : undefined
  }))
  return times.reduce((latest, time) => {
    return latest === undefined || time === undefined ? undefined : Math.max(latest, time)
  }, backMs as number | undefined)
}

/** Looks until nothing is missing. */
async function missingAfter (
  client: Redis | Cluster,
  instances: readonly InstanceProcess[],
  { loss }: Fault
): Promise<Play['missing']> {
  const { liftedByFirst, liftedBySecond, blockedByFirst, blockedBySecond, events, sum } = orders
  const look = async () => {
    const inRedis = await client.hkeys('guard:{blocks}')
    const blocks: string[] = []
    for (const [ip, wanted] of [
      ...[blockedClient, ...blockedByFirst, ...blockedBySecond].map(ip => [ip, true] as const),
      ...[liftedByFirst, liftedBySecond].map(ip => [ip, false] as const)
    ]) {
      const kept = ip.endsWith('/32') ? '2001:db8:0:0:0:0:0:0/32' : ip
      if ([ip, kept].some(ip => inRedis.includes(ip)) !== wanted) blocks.push(`${ip} in Redis`)
      for (const [i, instance] of instances.entries()) {
        if (await isRefused(instance, ip.replace('/32', '1')) !== wanted) blocks.push(`${ip} on instance ${i}`)
      }
    }
    const recorded = await eventsIn(client)
    const value = Number(await client.get(`guard:value:{${sum.key}}`))
    const wanted = (loss === 'everything' ? 0 : sum.before) + sum.first + sum.second
    return {
      blocks,
      events: events
        .filter(({ ip, count }) => !recorded.some(event => event.ip === ip && event.count === count))
        .map(({ ip }) => ip),
      values: value === wanted ? [] : [`${sum.key} is ${value}, not ${wanted}`]
    }
  }
  return await soon(look, ({ blocks, events, values }) => blocks.length + events.length + values.length === 0)
}

/**
 * Compares what Redis has counted of each client and limit with the answers. The
 * two agree to the hit, with these exceptions:
 *
 * - Hits that only the part of an instance refused (`share`) are not counted.
 * - After a loss, refusals beyond a used quota may be missing: the client stays
 *   limited all the same.
 * - A hit that was under way when data was lost counts up to twice, or not at
 *   all: Redis no longer knows whether it ran, another instance may have seen it
 *   counted, and its answer may come when memory has gone on without it. In a
 *   Cluster a hit that was under way when its instance went to memory counts once
 *   or twice.
 * - After a loss of the latest writes the larger value of each counter counts, so
 *   hits that only some of the instances know may be missing.
 */
async function compareCounters (
  client: Redis | Cluster,
  answered: readonly Answered[],
  { loss, atMs, givenUpMs }: Lost
): Promise<CounterOff[]> {
  const expected = new Map<string, { path: Path, least: number, most: number, known: number[] }>()
  for (const { path, client: ip, instance, status, dueMs, answeredMs, remaining } of answered) {
    if (status !== 200 && status !== 429) continue
    const wasUnderWay = ({ fromMs, untilMs }: Period) => dueMs < untilMs + underWayMs && answeredMs > fromMs
    const mayBeMissing = loss !== 'nothing' && atMs.some(wasUnderWay)
    const isInDoubt = mayBeMissing ||
      givenUpMs[instance]?.some(atMs => wasUnderWay({ fromMs: atMs, untilMs: atMs })) === true
    const key = `guard:fixed-window:{${ip}}:${limitNames[path]}`
    const bounds = expected.get(key) ??
      { path, least: 0, most: 0, known: Array.from({ length: instanceCount }, () => 0) }
    expected.set(key, bounds)
    bounds.most += isInDoubt ? 2 : 1
    if (!mayBeMissing && (path !== '/share' || status === 200)) bounds.least++
    const max = path === '/counted' ? instanceOptions.max : limitedMax
    const isBeforeLoss = atMs.every(({ fromMs }) => answeredMs < fromMs)
    if (isBeforeLoss) bounds.known[instance] = Math.max(bounds.known[instance]!, max - remaining)
  }
  const off: CounterOff[] = []
  for (const [key, { path, least: answers, most, known }] of expected) {
    const spread = loss === 'latest writes' ? Math.max(...known) - Math.min(...known) : 0
    const least = answers - spread
    const counts = (hits: number) => loss !== 'nothing' && path !== '/counted' ? Math.min(hits, limitedMax) : hits
    const [used, refused = 0] = (await client.get(key) ?? '0').split(':').map(Number)
    const counted = used! + refused
    if (counts(counted) < counts(least) || counts(counted) > counts(most)) off.push({ key, counted, least, most })
  }
  return off
}

/** @returns how many refused requests have no event, or how many events no refused request */
async function compareEvents (client: Redis | Cluster, answered: readonly Answered[]): Promise<number> {
  const refused = answered.filter(({ status }) => status === 429 || status === 403).length
  // Without the events of the orders, and of the requests of `isRefused`.
  const recorded = (await eventsIn(client))
    .filter(({ route }) => route !== undefined && route !== openPath)
    .reduce((sum, { count }) => sum + count, 0)
  return Math.abs(refused - recorded)
}

async function eventsIn (client: Redis | Cluster): Promise<RateLimitEvent[]> {
  const entries = await client.xrange('guard:{events}', '-', '+')
  return entries.map(([, fields]) => JSON.parse(fields[fields.indexOf('event') + 1]!) as RateLimitEvent)
}

/** Looks until `isGood`, or until `patienceMs` is over. @returns what was seen last */
async function soon<T> (look: () => Promise<T>, isGood: (seen: T) => boolean): Promise<T> {
  const untilMs = nowMs() + patienceMs
  for (;;) {
    const seen = await look()
    if (isGood(seen) || nowMs() > untilMs) return seen
    await sleep(25)
  }
}
