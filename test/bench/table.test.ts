/** The bench itself only measures; what it makes of the numbers is tested here. */
import t from 'tap'
import { readOptions } from '../../bench/options.js'
import { figure, median, renderTable } from '../../bench/table.js'

t.test('the median is the middle number, or halfway between the two', async t => {
  t.equal(median([3, 1, 2]), 2)
  t.equal(median([10, 9, 1, 2]), 5.5)
  t.throws(() => median([]), RangeError)
})

t.test('a figure has as many decimals as say something', async t => {
  const shown: [value: number | undefined, text: string][] = [
    [12345.6, '12,346'], [123.4, '123'], [12.34, '12.3'], [1.234, '1.23'], [0, '0.00'], [undefined, '-'], [NaN, '-']
  ]
  for (const [value, text] of shown) t.equal(figure(value), text)
})

t.test('a table is aligned, and is Markdown', async t => {
  t.equal(renderTable(['name', 'n'], [['plain', '1'], ['b', '1,000']]), [
    '| name  |     n |',
    '| ----- | ----: |',
    '| plain |     1 |',
    '| b     | 1,000 |'
  ].join('\n'))
})

t.test('options have defaults, and wrong ones are told by name', async t => {
  t.same(readOptions([]), { json: false, rounds: 3, seconds: 3, connections: [8, 64, 256], only: undefined, scenario: undefined })
  t.same(readOptions(['--connections', '1,2']).connections, [1, 2])
  t.throws(() => readOptions(['--rounds', '0']), /--rounds/)
  t.throws(() => readOptions(['--connections', '8,']), /--connections/)
  t.throws(() => readOptions(['--scenario', 'none']), /flood-few/)
})
