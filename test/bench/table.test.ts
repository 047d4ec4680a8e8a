/** Tests of what the bench computes from its measurements. */
import t from 'tap'
import { goalsOf, isReached } from '../../bench/goals.js'
import type { Row } from '../../bench/measure.js'
import { readOptions } from '../../bench/options.js'
import { renderGoals } from '../../bench/report.js'
import { figure, median, renderTable } from '../../tools/table.js'
import type { VariantName } from '../../bench/variants.js'

t.test('the median is the middle number, or halfway between the two', async t => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([10, 9, 1, 2]), 5.5)
  t.throws(() => median([]), RangeError)
})

t.test('a figure has at most two decimals, fewer for larger numbers', async t => {
  const shown: [value: number | undefined, text: string][] = [
    [12345.6, '12,346'], [123.4, '123'], [12.34, '12.3'], [1.234, '1.23'], [0, '0.00'], [undefined, '-'], [NaN, '-']
  ]
  for (const [value, text] of shown) t.equal(figure(value), text)
})

t.test('a table is aligned Markdown', async t => {
  t.equal(renderTable(['name', 'n'], [['plain', '1'], ['b', '1,000']]), [
    '| name  |     n |',
    '| ----- | ----: |',
    '| plain |     1 |',
    '| b     | 1,000 |'
  ].join('\n'))
})

t.test('options have defaults, and wrong ones are named', async t => {
  t.same(readOptions([]), {
    json: false, quick: false, rounds: 15, seconds: 1, connections: [8, 64, 256], only: undefined, scenario: undefined
  })
  t.same(readOptions(['--connections', '1,2']).connections, [1, 2])
  t.same(readOptions(['--quick']).connections, [8, 64])
  t.throws(() => readOptions(['--rounds', '0']), /--rounds/)
  t.throws(() => readOptions(['--connections', '8,']), /--connections/)
  t.throws(() => readOptions(['--scenario', 'none']), /flood-few/)
})

t.test('a goal is reported if it was measured', async t => {
  const row = (variant: VariantName, p99Ms: number, ratios: Row['ratios']): Row => ({
    variant,
    connections: 64,
    nextTickNs: 25,
    ratios,
    p99Ms,
    p50Ms: 1,
    requestsPerSecond: 1,
    cpuMicrosPerRequest: 1,
    redisMicrosPerRequest: 1,
    redisCommandsPerRequest: 1,
    refusedPercent: 0,
    failed: 0
  })
  const same = { requestsPerSecond: 1.7, cpuMicrosPerRequest: 0.5, redisMicrosPerRequest: 0.3 }
  const rows = [
    row('plain-headers', 5, {}),
    row('fastify-redis', 4, {}),
    row('guard-everything', 6, { 'fastify-redis': same })
  ]
  const goals = goalsOf({
    scenarios: [{ name: 'normal', title: '', pingMicros: 1, rows }],
    redisBytes: undefined,
    heap: undefined
  })
  t.same(goals.map(goal => [goal.measured, isReached(goal)]), [[0.5, true], [1.7, false], [1.5, false], [0.3, false]])
  t.match(renderGoals(goals), /requests\/s, to @fastify\/rate-limit on Redis +\| +1\.70 \| +>= 1\.80 \| +no \|/)
})
