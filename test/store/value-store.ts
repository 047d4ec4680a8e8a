/** The contract of a value store, which every implementation passes. */
import type { Test } from 'tap'
import type { Make } from './stores.js'

/** @param make  makes an empty store */
export function valueStoreContract (t: Test, make: Make): void {
  t.test('stores values until they expire or are deleted', async t => {
    const { values, wait } = await make(t)
    t.equal(await values.get('key'), null)
    await values.set('key', 'value', undefined)
    await values.set('other', 'one\r\ntwo\u0000 {} \u{1F980}', undefined)
    t.equal(await values.get('key'), 'value')
    t.equal(await values.get('other'), 'one\r\ntwo\u0000 {} \u{1F980}')
    t.equal(await values.del('key'), true)
    t.equal(await values.del('key'), false)
    t.equal(await values.get('key'), null)

    await values.set('brief', 'value', 50_000)
    t.equal(await values.get('brief'), 'value')
    await wait(60_000)
    t.equal(await values.get('brief'), null)
    t.equal(await values.del('brief'), false)
    await values.set('brief', 'value', 50_000)
    await values.set('brief', 'for good', undefined)
    await wait(60_000)
    t.equal(await values.get('brief'), 'for good', 'a value without expiry drops the old expiry')

    t.equal(await values.expire('nothing', 1000), false)
    t.equal(await values.expire('brief', 30_000), true)
    await wait(40_000)
    t.equal(await values.get('brief'), null)
  })

  t.test('increments whole numbers of 64 bits, and rejects other values', async t => {
    const { values, wait } = await make(t)
    t.equal(await values.incr('count'), 1)
    t.equal(await values.incr('count'), 2)
    t.equal(await values.get('count'), '2')
    await values.set('count', '-5', 50_000)
    t.equal(await values.incr('count'), -4)
    await wait(60_000)
    t.equal(await values.incr('count'), 1, 'incr kept the expiry')
    const tooLarge = ['9223372036854775807', '99999999999999999999']
    for (const value of ['', 'ten', '1.5', '1e3', ' 1', '01', '+1', '-0', ...tooLarge]) {
      await values.set('count', value, undefined)
      await t.rejects(async () => await values.incr('count'), { code: 'GUARD_ERR_VALUE' }, value)
      t.equal(await values.get('count'), value)
    }
    await values.set('count', '9223372036854775806', undefined)
    t.equal(await values.incr('count'), 2 ** 63)
  })
}
