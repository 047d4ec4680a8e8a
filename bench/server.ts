/**
 * One variant in a process of its own:
 *
 *   node dist/bench/server.js '{ "variant": "guard-everything", "redisPort": 6379,
 *     "nearRedisPort": 6379, "max": 100, "blocks": false }' kept
 *
 * The last argument is the state of nextTick (next-tick.ts). It prints its port, and ends with its parent. Asked for
 * `cpu`, it answers the CPU time that the process has used so far, in us; asked for `next tick`, the ns of a call.
 */
import { nextTickNanos, settleNextTick } from './next-tick.js'
import Fastify from 'fastify'
import { answerParent } from '../tools/child.js'
import { blockedPrefix, variants, type VariantName, type VariantSettings } from './variants.js'

export interface ServerSettings extends VariantSettings {
  readonly variant: VariantName
}

const settings = JSON.parse(process.argv[2]!) as ServerSettings
const app = Fastify({ logger: false, trustProxy: ['127.0.0.0/8'] })

await variants[settings.variant].add(app, settings)
app.get('/', async () => ({ hello: 'world' }))
await app.listen({ port: 0, host: '127.0.0.1' })

if (settings.blocks && app.hasDecorator('redisGuard')) {
  for (let i = 0; i < 256; i++) await app.redisGuard.blockIP(`${blockedPrefix}${i}`, 3600)
}

await settleNextTick()

answerParent(async question => {
  if (question === 'next tick') return await nextTickNanos()
  const { user, system } = process.cpuUsage()
  return user + system
})

console.log(`port ${(app.server.address() as { port: number }).port}`)
