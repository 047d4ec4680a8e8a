/** How far this process's clock is ahead of that of Redis, by its answers. */
import t from 'tap'
import { ClockOffset } from '../../lib/outage/clock-offset.js'

/** Redis is asked at `askedAtMs`, and its answer, with the time `redisMs`, arrives at `answeredAtMs`. */
type Look = readonly [askedAtMs: number, redisMs: number, answeredAtMs: number]

function offsetsAfter (looks: readonly Look[]): number[] {
  let nowMs = 0
  const offset = new ClockOffset(() => nowMs)
  return looks.map(([askedAtMs, redisMs, answeredAtMs]) => {
    nowMs = answeredAtMs
    offset.note(askedAtMs, redisMs)
    return offset.ms
  })
}

const looks: Readonly<Record<string, readonly [looks: readonly Look[], offsets: readonly number[]]>> = {
  'the first answer sets the offset': [[[1000, 400, 1001]], [601]],
  'a quicker answer makes it more exact': [[[1000, 450, 1100], [2000, 1401, 2002]], [650, 601]],
  'a slow answer changes nothing': [[[1000, 400, 1001], [2000, 1401, 2900], [3000, 2900, 3500]], [601, 601, 600]],
  'it follows a clock of Redis that is set back or ahead': [
    [[1000, 400, 1001], [2000, 400, 2001], [3000, 9000, 3001]], [601, 1598, -5999]
  ],
  'rounding does not move it': [[[1000, 400, 1000], [2000, 1399, 2000], [3000, 2400, 3000]], [600, 600, 600]]
}

for (const [title, [given, offsets]] of Object.entries(looks)) {
  t.test(title, async t => t.same(offsetsAfter(given), offsets))
}

t.equal(new ClockOffset(() => 0).ms, Infinity, 'unknown before the first look')
