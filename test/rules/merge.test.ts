/** What of a counter is told to a Redis that was away. */
import t from 'tap'
import { carryOf } from '../../lib/rules/merge.js'
import { count, defineLimit } from '../../lib/rules/rate-limit.js'
import type { LimitState } from '../../lib/rules/rule.js'

const startMs = 1_700_000_000_000
const fixed = defineLimit('fixed-window', 10, 1000)
const sliding = defineLimit('sliding-window', 10, 1000)
const bucket = defineLimit('gcra', 10, 1000, { burst: 5 })

function state (used: number, atMs: number, previous = 0): LimitState {
  return { used, previous, atMs: startMs + atMs }
}

t.test('what is carried is what came on top of the known', async t => {
  const cases: [what: string, carried: ReturnType<typeof carryOf>, expected: object | undefined][] = [
    ['in one window', carryOf(state(3, 1000), state(7, 1000), startMs + 500, fixed), { known: { used: 3 }, used: 4, previous: 0, atMs: startMs + 1000 }],
    ['nothing was known', carryOf(undefined, state(7, 1000), startMs + 500, fixed), { known: { used: 0 }, used: 7 }],
    ['the known window is over', carryOf(state(3, 100), state(7, 1100), startMs + 500, fixed), { known: { used: 0 }, used: 7, atMs: startMs + 1100 }],
    ['both are over', carryOf(state(3, 100), state(7, 100), startMs + 100, fixed), undefined],
    ['only the known counts', carryOf(state(3, 1000), state(3, 1000), startMs + 500, fixed), { known: { used: 3 }, used: 0 }],
    ['the fading window, too', carryOf(state(3, 0, 2), state(5, 0, 4), startMs + 500, sliding), { known: { used: 3, previous: 2 }, used: 2, previous: 2, atMs: startMs }],
    ['a window further', carryOf(state(3, 0), state(5, 0), startMs + 1500, sliding), { known: { used: 0, previous: 3 }, used: 0, previous: 2, atMs: startMs + 1000 }],
    ['what has not drained', carryOf(state(2000, 0, 10), state(5000, 0, 10), startMs + 100, bucket),
      { known: { used: 1000 }, used: 3000, atMs: startMs + 100 }],
    ['counted by another max', carryOf(state(2000, 0, 10), state(2500, 0, 5), startMs + 100, bucket),
      { known: { used: 1000 }, used: 3000, atMs: startMs + 100 }],
    ['nothing is left', carryOf(state(2000, 0, 10), state(2000, 0, 10), startMs + 2000, bucket), undefined]
  ]
  for (const [what, carried, expected] of cases) t.match(carried ?? null, expected ?? null, what)
})

t.test('a hit that was decided elsewhere is counted even where it does not fit; a refusal by the rule of its limit', async t => {
  t.match(count(state(10, 1000), startMs, fixed, 3, true), { used: 13 })
  t.match(count(state(10, 1000), startMs, fixed, 3, false), { used: 10, previous: 1 })
  t.match(count(state(10, 0), startMs, sliding, 1, false), { used: 10 })
  t.match(count(undefined, startMs, bucket, 2, true), { used: 2000 })
})
