/** The keyed hash is HalfSipHash-1-3, and its key decides which texts collide. */
import t from 'tap'
import { type HashKey, keyedHash, keyedHashOf } from '../../lib/addresses/keyed-hash.js'
import { randomFrom } from '../support/random.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

t.test('gives the published HalfSipHash-1-3 results for the bytes 0, 1, 2 and so on', async t => {
  const key: HashKey = [0x03020100, 0x07060504]
  const words = [0x03020100, 0x07060504, 0x0b0a0908, 0x0f0e0d0c]
  const results = [0x5814c896, 0x7e059ea6, 0x577999b1, 0x6b28096c, 0x8b31d501]
  t.same([0, 1, 2, 3, 4].map(length => keyedHash(words.slice(0, length), key)), results)
})

t.test('each bit of the key changes which texts collide', async t => {
  const random = randomFrom(seed)
  const word = () => random.whole(0, 2 ** 32 - 1)
  const texts = Array.from({ length: 5000 }, (_, i) => `name ${i}`)
  const weak: number[] = []
  for (let bit = 0; bit < 64; bit++) {
    const key: HashKey = [word(), word()]
    const other: HashKey = bit < 32 ? [(key[0] ^ 1 << bit) >>> 0, key[1]] : [key[0], (key[1] ^ 1 << bit - 32) >>> 0]
    const together = texts.filter(text => keyedHashOf(text, key) % 256 === 0)
    if (together.filter(text => keyedHashOf(text, other) % 256 === 0).length > together.length / 2) weak.push(bit)
  }
  t.same(weak, [], `seed ${seed}`)
})

t.test('texts that differ in one character or in length have different hashes', async t => {
  const long = ['a'.repeat(1000), 'a'.repeat(1001)]
  const texts = ['', '\0', '\0\0', 'a', 'a\0', 'a\0\0', 'b', 'ab', 'ba', 'ab\ud800', 'ab\ufffd', ...long]
  t.equal(new Set(texts.map(text => keyedHashOf(text, [1, 2]))).size, texts.length)
})
