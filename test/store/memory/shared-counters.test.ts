/** The shared counters, which count the keys that have no room of their own. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import { defineLimit } from '../../../lib/rules/rate-limit.js'
import { Keys } from '../../../lib/store/keys.js'
import { MemoryLimits } from '../../../lib/store/memory/limits.js'
import { SharedCounters } from '../../../lib/store/memory/shared-counters.js'

setFlagsFromString('--expose-gc')
const collectGarbage = runInNewContext('gc') as () => void

t.test('a sweep removes the expired counters', async t => {
  const counters = new SharedCounters([1, 2])
  const of = { name: 'login', limit: defineLimit('fixed-window', 5, 1000) }
  const entries = (nowMs: number) => [
    counters.ofLimit('key', of, nowMs),
    counters.ofAddress('192.0.2.1', 'key', of, nowMs),
    counters.ofAddress('192.0.2.1', 'other key', of, nowMs)
  ]
  const held = entries(0).map((entry, i) => new WeakRef(Object.assign(entry, { expiresAtMs: i < 2 ? 1000 : 2000 })))
  const areKept = async () => {
    // An object that was looked at is not collected within the same turn of the event loop.
    await new Promise(resolve => setImmediate(resolve))
    collectGarbage()
    return held.map(entry => entry.deref() !== undefined)
  }
  counters.sweep(999)
  t.same(await areKept(), [true, true, true])
  counters.sweep(1000)
  t.same(await areKept(), [false, false, true])
  t.equal(counters.find('192.0.2.1', 'other key', of, 1999)?.expiresAtMs, 2000)
  counters.sweep(2000)
  t.same(await areKept(), [false, false, false])
})

t.test('an expired shared counter starts again', async t => {
  const counters = new SharedCounters([1, 2])
  const of = { name: 'login', limit: defineLimit('fixed-window', 5, 1000) }
  for (const ask of [
    (nowMs: number) => counters.ofLimit('key', of, nowMs),
    (nowMs: number) => counters.ofAddress('192.0.2.1', 'key', of, nowMs)
  ]) {
    const first = Object.assign(ask(0), { expiresAtMs: 1000 })
    t.equal(ask(999), first)
    t.not(ask(1000), first)
  }
})

t.test('limits with the same name but different algorithms share no counter', async t => {
  // There are as many keys as counters of each limit, and no room for their own counters.
  const limits = new MemoryLimits({ keys: new Keys('guard:'), capacity: 0, now: () => 1_000_000 })
  const checkOf = (algorithm: 'fixed-window' | 'gcra') =>
    ({ name: 'group:login', limit: defineLimit(algorithm, 1_000_000, 3_600_000), cost: 1 })
  for (let i = 0; i < 1000; i++) limits.take({ clientKey: `client ${i}`, checks: [checkOf('gcra')] })
  const refused = { name: 'group:login', limit: defineLimit('fixed-window', 1, 3_600_000), cost: 1 }
  limits.take({ clientKey: 'client', checks: [refused] })
  for (let i = 0; i < 1000; i++) limits.take({ clientKey: `client ${i}`, checks: [checkOf('gcra')] })
  t.equal(limits.take({ clientKey: 'client', checks: [refused] }).accepted, false)
})
