/**
 * One instance of the service under the faults, as a process of its own:
 *
 *   node dist/chaos/instance.js '{ "redis": { "port": 6379 } }'
 *
 * Prints its port, answers its parent (Ask), and ends with it.
 */
import Fastify from 'fastify'
import { type RedisGuard, redisGuard, type RedisOption } from '../lib/index.js'
import { answerParent } from '../tools/child.js'
import { nowMs, type Stall, watchStalls } from './clock.js'
import { instanceOptions, limitedMax, openPath } from './plan.js'

/** Where its Redis is. */
export interface RedisSettings {
  readonly redis: RedisOption
  /** answer of the credentials function; undefined: there is no such function */
  readonly password?: string | undefined
}

export interface InstanceSettings extends RedisSettings {
  readonly commandTimeout: number
}

export type Ask =
  | { readonly ask: 'state' }
  /** the part of the state that needs no Redis */
  | { readonly ask: 'standing' }
  /** calls a method of the guard */
  | { readonly ask: 'call', readonly method: keyof RedisGuard, readonly args: readonly unknown[] }
  /** sets the answer of the credentials function */
  | { readonly ask: 'password', readonly password: string }

export interface Switch {
  readonly atMs: number
  readonly store: 'redis' | 'memory'
  readonly reason: string | undefined
}

export interface Standing {
  readonly store: 'redis' | 'memory'
  /** since the process started */
  readonly switches: readonly Switch[]
}

export interface InstanceState extends Standing {
  /** unhandled errors, and lines that were logged as errors */
  readonly errors: readonly string[]
  readonly stalls: readonly Stall[]
  /** entries that wait for a replay */
  readonly journalEntries: number
}

const settings = JSON.parse(process.argv[2]!) as InstanceSettings
let { password } = settings
const stalls = watchStalls()
const errors: string[] = []
const switches: Switch[] = []

process.on('uncaughtException', error => errors.push(String(error.stack)))
process.on('unhandledRejection', reason => errors.push(`unhandled: ${String(reason)}`))

const app = Fastify({
  trustProxy: '127.0.0.1',
  logger: { level: 'error', stream: { write: (line: string) => { errors.push(line) } } }
})
const redis = password === undefined
  ? settings.redis
  : { ...settings.redis as object, credentials: () => ({ password: password! }) }
await app.register(redisGuard, { ...instanceOptions, commandTimeout: settings.commandTimeout, redis })
app.redisGuard.on('switch', ({ store, reason }) => switches.push({ atMs: nowMs(), store, reason }))

app.get('/counted', async () => 'ok')
app.get(openPath, { config: { rateLimit: false } }, async () => 'ok')
for (const onOutage of ['memory', 'share'] as const) {
  app.get(`/${onOutage}`, { config: { rateLimit: { max: limitedMax, onOutage } } }, async () => 'ok')
}
await app.listen({ port: 0, host: '127.0.0.1' })

answerParent(async question => {
  const asked = question as Ask
  switch (asked.ask) {
    case 'state': return await state()
    case 'standing': return standing()
    case 'call': return await (app.redisGuard[asked.method] as (...args: readonly unknown[]) => unknown).apply(
      app.redisGuard,
      [...asked.args]
    )
    case 'password':
      password = asked.password
      return undefined
    default: return asked satisfies never
  }
})

console.log(`port ${(app.server.address() as { port: number }).port}`)

function standing (): Standing {
  return { store: app.redisGuard.status.store, switches }
}

async function state (): Promise<InstanceState> {
  const { payload } = await app.inject('/metrics')
  return {
    ...standing(),
    errors,
    stalls,
    journalEntries: Number(/^redis_guard_journal_entries (\d+)$/m.exec(payload)![1])
  }
}
