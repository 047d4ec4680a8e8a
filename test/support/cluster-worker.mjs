/**
 * One worker of a node:cluster, from the built package, whose metrics the primary collects with prom-client's
 * AggregatorRegistry. Its options are the JSON in GUARD_OPTIONS. When it is ready it has answered two requests.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'
import { AggregatorRegistry, Registry } from 'prom-client'

const registry = new Registry()
AggregatorRegistry.setRegistries([registry])
// It is this that listens for the primary.
new AggregatorRegistry() // eslint-disable-line no-new

const app = Fastify()
await app.register(redisGuard, { ...JSON.parse(process.env.GUARD_OPTIONS), metrics: { registry, path: false } })
app.get('/', async () => 'ok')
for (let sent = 0; sent < 2; sent++) await app.inject({ url: '/', remoteAddress: `192.0.2.${process.env.WORKER}` })
process.on('message', async message => {
  if (message === 'close') await app.close().finally(() => process.disconnect())
})
process.send('ready')
