/** A Fastify with the guard, for tests that need no separate process. */
import Fastify, { type FastifyInstance, type FastifyServerOptions } from 'fastify'
import type { Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'

/** Opens an application, in memory unless the options say otherwise. It closes with the test. */
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

/** Collects log lines of this level and above. */
export function logTo (lines: Record<string, unknown>[], level = 'warn'): FastifyServerOptions {
  return { logger: { level, stream: { write: (line: string) => { lines.push(JSON.parse(line)) } } } }
}
