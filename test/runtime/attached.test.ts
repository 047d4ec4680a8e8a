/** State attached to an object of the application. */
import t from 'tap'
import { attached } from '../../lib/runtime/attached.js'

t.test('makes the state once for each owner and key, and shows it in no copy of the owner', async t => {
  const [first, second] = [Symbol('first'), Symbol('second')]
  const owner = { name: 'server' }
  const state = attached(owner, first, () => ({ count: 0 }))
  t.equal(attached(owner, first, () => ({ count: 1 })), state)
  t.not(attached(owner, second, () => ({ count: 0 })), state)
  t.not(attached({}, first, () => ({ count: 0 })), state)
  t.same(Reflect.ownKeys({ ...owner }), ['name'])
})

t.test('an object that inherits from an owner has its own state', async t => {
  const key = Symbol('state')
  const owner = {}
  const state = attached(owner, key, () => ({}))
  t.not(attached(Object.create(owner) as object, key, () => ({})), state)
})
