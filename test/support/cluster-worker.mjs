/**
 * One worker of a node:cluster, from the built package. The primary collects its metrics with prom-client's
 * AggregatorRegistry. GUARD_OPTIONS contains its options as JSON. It sends 'ready' after it has answered two requests.
 */
import Fastify from 'fastify'
import redisGuard from 'fastify-redis-guard'
import { AggregatorRegistry, Registry } from 'prom-client'

const registry = new Registry()
AggregatorRegistry.setRegistries([registry])
// This object listens to the primary.
new AggregatorRegistry() // eslint-disable-line no-new

const app = Fastify()
await app.register(redisGuard, { ...JSON.parse(process.env.GUARD_OPTIONS), metrics: { registry, path: false } })
app.get('/', async () => 'ok')
for (let sent = 0; sent < 2; sent++) await app.inject({ url: '/', remoteAddress: `192.0.2.${process.env.WORKER}` })
process.on('message', async message => {
  if (message === 'close') await app.close().finally(() => process.disconnect())
})
process.send('ready')
