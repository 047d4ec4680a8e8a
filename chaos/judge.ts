/** Turns a play into figures, and names those that are wrong. */
import { lostBetween } from './clock.js'
import type { Answered } from './load.js'
import { blockedClient, limitedMax } from './plan.js'
import { type Play, underWayMs } from './play.js'

export interface Figures {
  readonly requests: number
  /** answers of 500 and above */
  readonly serverErrors: number
  /** requests that failed without an answer, or have none yet */
  readonly unanswered: number
  /** lines that an instance logged as errors, and unhandled errors */
  readonly errors: number
  /**
   * slowest answers, ms, without stalls of the machine: before the fault; until every instance had noticed it; and from
   * then until Redis was back
   */
  readonly slowestMs: {
    readonly before: number, readonly noticing: number | undefined, readonly away: number | undefined
  }
  /** the longest time for which the machine did not let one of the processes run, in ms */
  readonly stalledMs: number
  /** hits that were let in beyond the limit, with `onOutage: 'memory'` and `'share'` */
  readonly overMemory: number
  readonly overShare: number
  /** hits by which the counters in Redis differ from the answers, in all */
  readonly countersOff: number
  /** blocks and unblocks that are missing anywhere, and requests of a blocked client that were let in */
  readonly blocksLost: number
  /** events that are not in Redis; NaN is not counted */
  readonly eventsLost: number
  /** values with a wrong sum */
  readonly valuesLost: number
  /** ms from when Redis was back until all instances used it; undefined: they never did */
  readonly recoveryMs: number | undefined
  /** ms until all blocks, events, values and counters were in Redis */
  readonly replayedMs: number
  /** time limit of a command, ms: the slowest answers are compared with it */
  readonly commandTimeout: number
  /** journal entries that were never replayed */
  readonly notReplayed: number
}

/** A figure that is wrong. */
export interface Miss {
  /** the figure and its value */
  readonly what: string
  /** it was too slow, as it may be on a machine under load */
  readonly isTime: boolean
}

/** ms that the slowest answers may take beyond the time limit, and beyond the slowest before the fault */
const noticingExtraMs = 50
const awayExtraMs = 10
const recoveryWithinMs = 1000
const replayedWithinMs = 1000

export function figuresOf (play: Play): Figures {
  const {
    load: { answered, hanging, stalls }, instances, warmMs, struckMs, backMs, usedAgainMs, replayedMs, missing,
    countersOff, eventsOff, commandTimeout
  } = play
  const noticedMs = noticedAtMs(play)
  const allStalls = [...stalls, ...instances.flatMap(({ stalls }) => stalls)]
  const tookMs = ({ instance, dueMs, answeredMs }: Answered) => answeredMs - dueMs -
    lostBetween(stalls, dueMs, answeredMs) - lostBetween(instances[instance]!.stalls, dueMs, answeredMs)
  // A request that was due before the fault and answered in it has met it.
  const slowestOf = (isMeant: (answer: Answered) => boolean) => greatest(answered.filter(isMeant).map(tookMs))
  return {
    requests: answered.length + hanging,
    serverErrors: answered.filter(({ status }) => status >= 500).length,
    unanswered: answered.filter(({ status }) => status === 0).length + hanging,
    errors: sum(instances.map(({ errors }) => errors.length)),
    slowestMs: {
      before: slowestOf(({ dueMs, answeredMs }) => dueMs >= warmMs && answeredMs < struckMs) ?? 0,
      noticing: slowestOf(({ dueMs, answeredMs }) => answeredMs >= struckMs && dueMs < (noticedMs ?? backMs)),
      away: noticedMs === undefined ? undefined : slowestOf(({ dueMs }) => dueMs >= noticedMs && dueMs < backMs)
    },
    stalledMs: greatest(allStalls.filter(({ fromMs }) => fromMs >= warmMs).map(({ lostMs }) => lostMs)) ?? 0,
    overMemory: overMemory(play),
    overShare: overShare(play),
    countersOff: sum(countersOff.map(({ counted, least, most }) => Math.max(least - counted, counted - most))),
    blocksLost: missing.blocks.length +
      answered.filter(({ client, status }) => client === blockedClient && status !== 403).length,
    eventsLost: missing.events.length + (Number.isNaN(eventsOff) ? 0 : eventsOff),
    valuesLost: missing.values.length,
    recoveryMs: usedAgainMs === undefined ? undefined : usedAgainMs - backMs,
    replayedMs,
    commandTimeout,
    notReplayed: sum(instances.map(({ journalEntries }) => journalEntries))
  }
}

export function missesOf ({
  serverErrors, unanswered, errors, slowestMs: { before, noticing, away }, overMemory, overShare, countersOff,
  blocksLost, eventsLost, valuesLost, recoveryMs, replayedMs, commandTimeout, notReplayed
}: Figures): Miss[] {
  const misses: Miss[] = []
  const counts = {
    '5xx': serverErrors,
    unanswered,
    errors,
    'over the limit with memory': overMemory,
    'over the limit with share': overShare,
    'counters off': countersOff,
    'blocks lost': blocksLost,
    'events lost': eventsLost,
    'values lost': valuesLost,
    'not replayed': notReplayed
  }
  for (const [what, count] of Object.entries(counts)) {
    if (count > 0) misses.push({ what: `${what}: ${count}`, isTime: false })
  }
  const within = (what: string, ms: number | undefined, limitMs: number) => {
    if (ms !== undefined && ms > limitMs) {
      misses.push({ what: `${what}: ${ms.toFixed(1)} ms, above ${limitMs.toFixed(1)}`, isTime: true })
    }
  }
  within('slowest while noticing', noticing, commandTimeout + noticingExtraMs)
  within('slowest while away', away, before + awayExtraMs)
  within('recovery', recoveryMs, recoveryWithinMs)
  within('replay', replayedMs, replayedWithinMs)
  if (recoveryMs === undefined) misses.push({ what: 'Redis was not used again', isTime: false })
  return misses
}

/** When the last of the instances that noticed the fault had; undefined: none did, or not before Redis was back. */
function noticedAtMs ({ instances, struckMs, backMs }: Play): number | undefined {
  const noticed = instances.map(({ switches }) => {
    return switches.find(({ atMs, store }) => store === 'memory' && atMs >= struckMs && atMs < backMs)?.atMs
  })
  return greatest(noticed.filter(atMs => atMs !== undefined))
}

/**
 * With `memory` each instance lets in the hits that were left at the last report
 * of Redis: `x-ratelimit-remaining` of its last answer before the fault. A client
 * that came later gets its whole quota from each instance.
 */
function overMemory ({ load: { answered }, instances, struckMs }: Play): number {
  const hits = answered.filter(({ path }) => path === '/memory')
  return sum(instances.flatMap((_, instance) => [...new Set(hits.map(({ client }) => client))].map(client => {
    const own = hits.filter(hit => hit.instance === instance && hit.client === client)
    const before = own.filter(({ answeredMs }) => answeredMs < struckMs)
    const left = Math.min(limitedMax, ...before.map(({ remaining }) => remaining))
    return Math.max(0, own.filter(({ status, answeredMs }) => status === 200 && answeredMs >= struckMs).length - left)
  })))
}

/**
 * With `share` all instances together let in `max`. Where one of them is cut
 * off alone, the others go on with all that Redis has left, so that its part
 * comes on top. If Redis loses data, hits under way at that moment may be let in
 * once more. If it loses only its latest writes, the largest value that an
 * instance knows of a counter counts, so hits that only others know may be let in
 * once more, too.
 */
function overShare ({ fault, load: { answered }, instances, lossMs }: Play): number {
  const allowed = limitedMax + (fault.seenByOne ? Math.floor(limitedMax / instances.length) : 0)
  const hits = answered.filter(({ path }) => path === '/share')
  return sum([...new Set(hits.map(({ client }) => client))].map(client => {
    const own = hits.filter(hit => hit.client === client)
    const known = instances.map((_, instance) => {
      const before = own.filter(hit => hit.instance === instance && hit.answeredMs < lossMs.from)
      return limitedMax - Math.min(limitedMax, ...before.map(({ remaining }) => remaining))
    })
    const admitted = own.filter(({ status }) => status === 200)
    const underWay = admitted.filter(({ dueMs, answeredMs }) => {
      return dueMs < lossMs.until + underWayMs && answeredMs > lossMs.from
    })
    const spread = fault.loss === 'latest writes' ? Math.max(...known) - Math.min(...known) : 0
    const mayBeLost = fault.loss === 'nothing' ? 0 : spread + underWay.length
    return Math.max(0, admitted.length - allowed - mayBeLost)
  }))
}

function greatest (numbers: readonly number[]): number | undefined {
  return numbers.length === 0 ? undefined : numbers.reduce((a, b) => Math.max(a, b))
}

function sum (numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0)
}
