/** Serves the metrics, and fails the start with a remedy if another plugin serves the same path. */
import type { FastifyInstance } from 'fastify'
import { GuardError } from '../errors.js'
import type { MetricsRegistry } from '../settings/options.js'

/** @param path  of the route; it is neither limited nor counted */
export function addMetricsRoute (fastify: FastifyInstance, path: string, registry: MetricsRegistry): void {
  // Keeps the route out of the API documents of @fastify/swagger and others.
  const schema: object = { hide: true }
  fastify.get(path, { config: { rateLimit: false } as object, logLevel: 'warn', schema }, async (request, reply) => {
    const text = await registry.metrics()
    return await reply.type(registry.contentType).send(text)
  })
  const url = `${fastify.prefix}${path}`
  // Runs before Fastify's own check for duplicates, whose error would not say what to do.
  fastify.addHook('onRoute', route => {
    if (route.url === url && [route.method].flat().includes('GET')) throw metricsRouteTaken(url)
  })
}

/** The error if the registry holds the metrics of another registration. */
export function metricsRegistered (): GuardError {
  return new GuardError('GUARD_ERR_METRICS_REGISTRY',
    'The registry has the metrics of another registration of fastify-redis-guard. Give each registration its own ' +
    'registry with metrics: { registry }, or turn metrics off with metrics: false')
}

/** The error if two plugins serve the same path. */
export function metricsRouteTaken (path: string): GuardError {
  return new GuardError('GUARD_ERR_METRICS_ROUTE',
    `Another plugin also serves GET ${path}. To serve the metrics of fastify-redis-guard elsewhere, set ` +
    "metrics: { path: '/another' }. To add them to that plugin's metrics, set metrics: { path: false, registry } " +
    'with its registry. To turn them off, set metrics: false')
}
