/** Runs the four store contracts on memory, on Redis, and on the outage layer with and without Redis. */
import t from 'tap'
import { blockStoreContract } from './block-store.js'
import { eventStoreContract } from './event-store.js'
import { limitStoreContract } from './limit-store.js'
import { StoreMaker } from './stores.js'
import { valueStoreContract } from './value-store.js'

const maker = await StoreMaker.start(t)

const makers = {
  memory: maker.memory,
  Redis: maker.redis,
  'the outage layer, with Redis': maker.outageWithRedis,
  'the outage layer, with Redis away': maker.outageWithoutRedis
}

for (const [name, make] of Object.entries(makers)) {
  t.test(name, async t => {
    t.test('limits', async t => limitStoreContract(t, make))
    t.test('blocks', async t => blockStoreContract(t, make))
    t.test('events', async t => eventStoreContract(t, make))
    t.test('values', async t => valueStoreContract(t, make))
  })
}
