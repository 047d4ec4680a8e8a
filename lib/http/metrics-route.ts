/** Serves the registry, and says what to do when another plugin serves the same path. */
import type { FastifyInstance } from 'fastify'
import { GuardError } from '../errors.js'
import type { MetricsRegistry } from '../settings/options.js'

/** @param path  of the route; it is neither limited nor counted */
export function addMetricsRoute (fastify: FastifyInstance, path: string, registry: MetricsRegistry): void {
  // @fastify/swagger and others leave it out of the document of the API.
  const schema: object = { hide: true }
  fastify.get(path, { config: { rateLimit: false } as object, logLevel: 'warn', schema }, async (request, reply) => {
    const text = await registry.metrics()
    return await reply.type(registry.contentType).send(text)
  })
  const url = `${fastify.prefix}${path}`
  // Runs before Fastify looks for duplicates, whose error would not say what to do.
  fastify.addHook('onRoute', route => {
    if (route.url === url && [route.method].flat().includes('GET')) throw metricsRouteTaken(url)
  })
}

/** For a registry that holds metrics of another registration. */
export function metricsRegistered (): GuardError {
  return new GuardError('GUARD_ERR_METRICS_REGISTRY',
    'The registry has metrics of another registration of fastify-redis-guard. Give each its own with ' +
    'metrics: { registry }, or turn them off with metrics: false')
}

/** For a path that two plugins want. */
export function metricsRouteTaken (path: string): GuardError {
  return new GuardError('GUARD_ERR_METRICS_ROUTE',
    `GET ${path} is served by another plugin, too. Set metrics: { path: '/another' } to serve the metrics of ` +
    'fastify-redis-guard elsewhere, or metrics: { path: false, registry } with the registry of that plugin to have ' +
    'them served there, or metrics: false for none')
}
