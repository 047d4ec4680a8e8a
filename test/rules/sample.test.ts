/** A part of all clients: of the size that was asked for, always the same, and cheap to find. */
import t from 'tap'
import { isInPart } from '../../lib/rules/sample.js'

const long = 'a'.repeat(1_000_000)

t.test('of any texts, long ones too, the part is as large as asked for', async t => {
  for (const pad of ['', 'a'.repeat(5000)]) {
    for (const textOf of [(i: number) => `${i}${pad}`, (i: number) => `${pad}${i}`]) {
      const inPart = Array.from({ length: 10_000 }, (_, i) => isInPart(textOf(i), 0.3)).filter(Boolean).length
      t.ok(Math.abs(inPart - 3000) < 200, `${inPart} of 10,000 at 0.3`)
    }
  }
})

t.test('what is in a part is in each larger one', async t => {
  for (let i = 0; i < 1000; i++) t.notOk(isInPart(`client ${i}`, 0.2) && !isInPart(`client ${i}`, 0.4), `${i}`)
})

t.test('of a long text the ends decide: reading a megabyte for each limit would hold up all requests', async t => {
  for (let i = 0; i < 20; i++) {
    t.equal(isInPart(`${i}${long}b${long}${i}`, 0.5), isInPart(`${i}${long}c${long}${i}`, 0.5), `${i}`)
  }
})
