/** Refusals are collected, merged and written behind. A slow store lets neither their number nor a read wait grow. */
import t from 'tap'
import {
  EventLog, flushIntervalMs, longestReadWaitMs, longestRoundMs, mostOfAddress, mostPending, mostPerWrite
} from '../../lib/observers/event-log.js'
import type { RateLimitEvent } from '../../lib/store/event-store.js'
import { mockMachinery } from '../support/fake-timers.js'

const event = (given: Partial<RateLimitEvent> = {}): RateLimitEvent =>
  ({ type: 'limited', ip: '192.0.2.1', count: 1, atMs: 0, ...given })

/** A log on a store that records its writes. `answer` delays an answer or fails it; the log's clock does not move. */
function watched (answer: (write: number) => Promise<void> = async () => {}, now = () => 0) {
  const writes: (readonly RateLimitEvent[])[] = []
  let dropped = 0
  const log = new EventLog(async events => await answer(writes.push(events)), count => { dropped += count }, now)
  return { log, writes, dropped: () => dropped }
}

t.test('writes equal refusals as one event, with a count and the time of the first', async t => {
  const { log, writes } = watched()
  for (const atMs of [1, 2, 3]) log.add(event({ atMs, count: 2 }))
  await log.flush()
  t.same(writes, [[event({ atMs: 1, count: 6 })]])
})

t.test('keeps refusals apart that differ in anything but time', async t => {
  const different: Partial<RateLimitEvent>[] = [
    {}, { type: 'blocked' }, { ip: '192.0.2.2' }, { ip: undefined }, { key: 'k' }, { limit: 'l' }, { method: 'GET' },
    { route: '/r' }
  ]
  const { log, writes } = watched()
  for (const given of different) log.add(event(given))
  await log.flush()
  t.same(writes, [different.map(event)])
})

t.test('does not change the given events', async t => {
  const given = Object.freeze(event())
  const { log, writes } = watched()
  log.add(given)
  log.add(given)
  await log.flush()
  t.equal(writes[0]![0]!.count, 2)
  t.equal(given.count, 1)
})

t.test('a flush writes once, and writes nothing if there is nothing new', async t => {
  const { log, writes } = watched()
  await log.flush()
  log.add(event())
  await Promise.all([log.flush(), log.flush()])
  await log.flush()
  t.equal(writes.length, 1)
})

t.test('counts refusals without room as dropped, by requests', async t => {
  const { log, writes, dropped } = watched()
  for (let i = 0; i < mostPending; i++) log.add(event({ ip: `ip ${i}` }))
  t.equal(dropped(), 0)
  log.add(event({ ip: 'one more', count: 3 }))
  log.add(event({ ip: 'another' }))
  log.add(event({ ip: 'ip 0' }))
  t.equal(dropped(), 4)
  await log.flush()
  t.equal(writes.flat().length, mostPending)
  t.ok(writes.every(({ length }) => length <= mostPerWrite))
  t.equal(writes[0]![0]!.count, 2)
  const before = writes.length
  log.add(event({ ip: 'one more' }))
  await log.flush()
  t.same(writes[before], [event({ ip: 'one more' })])
})

t.test('counts every refusal of an address with many different ones, the excess in one event', async t => {
  const { log, writes, dropped } = watched()
  for (let i = 0; i < 1000; i++) log.add(event({ key: `key ${i % 500}`, atMs: i }))
  log.add(event({ type: 'blocked', route: '/' }))
  await log.flush()
  const [events] = writes as [RateLimitEvent[]]
  t.equal(dropped(), 0)
  t.equal(events.length, mostOfAddress + 2)
  t.same(
    events.slice(0, mostOfAddress).map(({ key, count }) => [key, count]),
    Array.from({ length: mostOfAddress }, (_, i) => [`key ${i}`, 2])
  )
  t.same(events.slice(mostOfAddress), [
    event({ atMs: mostOfAddress, count: 1000 - 2 * mostOfAddress }),
    event({ type: 'blocked' })
  ])
})

t.test('writes one chunk after the other, and a flush waits for all of them', async t => {
  const order: string[] = []
  let answerFirst = () => {}
  const { log } = watched(async write => {
    order.push(`begin ${write}`)
    if (write === 1) await new Promise<void>(resolve => { answerFirst = resolve })
    order.push(`end ${write}`)
  })
  log.add(event({ atMs: 1 }))
  const first = log.flush()
  await new Promise(resolve => setImmediate(resolve))
  log.add(event({ atMs: 2 }))
  const second = log.flush().then(() => order.push('flushed'))
  await new Promise(resolve => setImmediate(resolve))
  t.same(order, ['begin 1'])
  answerFirst()
  await Promise.all([first, second])
  t.same(order, ['begin 1', 'end 1', 'begin 2', 'end 2', 'flushed'])
})

t.test('a chunk that cannot be written fails its own flush, and no later one', async t => {
  const { log, writes } = watched(async write => { if (write === 1) throw new Error('WRONGTYPE') })
  log.add(event({ atMs: 1 }))
  await t.rejects(log.flush(), { message: 'WRONGTYPE' })
  await log.flush()
  log.add(event({ atMs: 2 }))
  await log.flush()
  t.same(writes, [[event({ atMs: 1 })], [event({ atMs: 2 })]])
})

t.test('a round of slow writes ends after half a second, and drops the rest', async t => {
  let clockMs = 0
  const { log, writes, dropped } = watched(async () => { clockMs += 240 }, () => clockMs)
  for (let i = 0; i < 10 * mostPerWrite; i++) log.add(event({ ip: `ip ${i}`, count: 2 }))
  await log.flush()
  t.equal(writes.length, Math.ceil(longestRoundMs / 240))
  t.equal(dropped(), (10 - writes.length) * mostPerWrite * 2)
  t.same(writes.flat().map(({ ip }) => ip), Array.from({ length: 3 * mostPerWrite }, (_, i) => `ip ${i}`))
})

t.test('merges equal refusals into one event of the next round while a round is being written', async t => {
  let answer = () => {}
  const { log, writes } = watched(async write => {
    if (write === 1) await new Promise<void>(resolve => { answer = resolve })
  })
  log.add(event({ ip: 'first' }))
  const flushed = [log.flush()]
  await new Promise(resolve => setImmediate(resolve))
  for (let i = 0; i < 1000; i++) {
    log.add(event())
    flushed.push(log.flush())
  }
  answer()
  await Promise.all(flushed)
  t.same(writes, [[event({ ip: 'first' })], [event({ count: 1000 })]])
})

t.test('writes a logged event at once, even if the queue of refusals is full', async t => {
  const { log, writes, dropped } = watched()
  for (let i = 0; i < mostPending; i++) log.add(event({ ip: `ip ${i}` }))
  await log.log(event({ key: 'logged' }))
  t.same(writes[0]!.at(-1), event({ key: 'logged' }))
  t.equal(dropped(), 0)
})

t.test('counts logged events beyond the limit of waiting ones as dropped', async t => {
  let answer = () => {}
  const { log, writes, dropped } = watched(async write => {
    if (write === 1) await new Promise<void>(resolve => { answer = resolve })
  })
  const logged = [log.log(event())]
  await new Promise(resolve => setImmediate(resolve))
  for (let i = 0; i < mostPending + 3; i++) logged.push(log.log(event({ count: 2 })))
  answer()
  await Promise.all(logged)
  t.equal(dropped(), 6)
  t.equal(writes.flat().length, 1 + mostPending)
})

t.test('a logged event that cannot be written fails its caller, but no reader', async t => {
  const { log } = watched(async () => { throw new Error('WRONGTYPE') })
  await t.rejects(log.log(event()), { message: 'WRONGTYPE' })
  log.add(event())
  await log.settle()
})

t.test('by the clock', async t => {
  const settle = async () => await new Promise(resolve => setImmediate(resolve))

  t.test('writes behind, one interval after the first event', async t => {
    const clock = mockMachinery(t, 'setTimeout')
    const { log, writes } = watched()
    log.add(event())
    clock.tick(flushIntervalMs - 1)
    log.add(event())
    await settle()
    t.same(writes, [])
    clock.tick(1)
    await settle()
    t.same(writes, [[event({ count: 2 })]])
    log.add(event())
    clock.tick(flushIntervalMs)
    await settle()
    t.equal(writes.length, 2)
  })

  t.test('a reader waits at most half a second for events that are being written', async t => {
    const clock = mockMachinery(t, 'setTimeout')
    let answer = () => {}
    const { log, writes } = watched(async write => {
      if (write === 2) await new Promise<void>(resolve => { answer = resolve })
    })
    log.add(event())
    await log.settle()
    t.equal(writes.length, 1)
    log.add(event())
    let isSettled = false
    const settled = log.settle().then(() => { isSettled = true })
    await settle()
    clock.tick(longestReadWaitMs - 1)
    await settle()
    t.equal(isSettled, false)
    clock.tick(1)
    await settled
    answer()
  })

  t.test('a flush replaces the write behind', async t => {
    const clock = mockMachinery(t, 'setTimeout')
    const { log, writes } = watched()
    log.add(event())
    await log.flush()
    log.add(event())
    clock.tick(flushIntervalMs - 1)
    await settle()
    t.equal(writes.length, 1)
  })

  t.test('a failed write behind does not end the process', async t => {
    const clock = mockMachinery(t, 'setTimeout')
    const { log, writes } = watched(async write => { if (write === 1) throw new Error('WRONGTYPE') })
    for (let i = 0; i < 2; i++) {
      log.add(event())
      clock.tick(flushIntervalMs)
      await settle()
    }
    t.equal(writes.length, 2)
  })
})
