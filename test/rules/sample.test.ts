/** Sampling clients: the sample has the requested size, holds the same clients each time, and is cheap to decide. */
import t from 'tap'
import { isInPart } from '../../lib/rules/sample.js'

const long = 'a'.repeat(1_000_000)

t.test('the sample has the requested size for any texts, long ones too', async t => {
  for (const pad of ['', 'a'.repeat(5000)]) {
    for (const textOf of [(i: number) => `${i}${pad}`, (i: number) => `${pad}${i}`]) {
      const inPart = Array.from({ length: 10_000 }, (_, i) => isInPart(textOf(i), 0.3)).filter(Boolean).length
      t.ok(Math.abs(inPart - 3000) < 200, `${inPart} of 10,000 at 0.3`)
    }
  }
})

t.test('a member of a sample is in each larger sample', async t => {
  for (let i = 0; i < 1000; i++) t.notOk(isInPart(`client ${i}`, 0.2) && !isInPart(`client ${i}`, 0.4), `${i}`)
})

t.test('only the ends of a long text decide: reading a megabyte for each limit would delay all requests', async t => {
  for (let i = 0; i < 20; i++) {
    t.equal(isInPart(`${i}${long}b${long}${i}`, 0.5), isInPart(`${i}${long}c${long}${i}`, 0.5), `${i}`)
  }
})
