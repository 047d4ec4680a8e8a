/** A Fastify with the guard, for tests that need no process of its own. */
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'

/** In memory, unless the options say otherwise; closed with the test. */
export async function guardedApp (
  t: Test,
  options: RedisGuardOptions = {},
  server: FastifyServerOptions = {}
): Promise<FastifyInstance> {
  const app: FastifyInstance = Fastify(server)
  t.teardown(async () => await app.close())
  await app.register(redisGuard, { redis: false, ...options })
  return app
}

/** Log lines of level `warn` and above, as they come. */
export function logTo (lines: Record<string, unknown>[], level = 'warn'): FastifyServerOptions {
  return { logger: { level, stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } }
}
