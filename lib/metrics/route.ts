/** Serves the registry, and says what to do when another plugin serves the same path. */
import type { FastifyInstance } from 'fastify'
import { GuardError } from '../errors.js'
import type { MetricsRegistry } from '../options.js'

/** @param path  of the route; it is neither limited nor counted */
export function addMetricsRoute (fastify: FastifyInstance, path: string, registry: MetricsRegistry): void {
  const handler = async () => await registry.metrics()
  fastify.get(path, {
    config: { rateLimit: false } as object,
    logLevel: 'warn',
    onSend: (request, reply, payload, done) => {
      reply.header('content-type', registry.contentType)
      done()
    }
  }, handler)
  const url = `${fastify.prefix}${path}`
  // Runs before Fastify looks for duplicates, whose error would not say what to do.
  fastify.addHook('onRoute', route => {
    if (route.url === url && [route.method].flat().includes('GET')) throw metricsRouteTaken(url)
  })
}

export function metricsRouteTaken (path: string): GuardError {
  return new GuardError('GUARD_ERR_METRICS_ROUTE',
    `GET ${path} is served by another plugin, too. Set metrics: { path: '/another' } to serve the metrics of fastify-redis-guard elsewhere, ` +
    'or metrics: { path: false, registry } with the registry of that plugin to have them served there, or metrics: false for none')
}
