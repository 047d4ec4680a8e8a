/** Chooses the registry of the metrics (the plugin's, the user's or another plugin's), and the route that serves it. */
import type { FastifyInstance } from 'fastify'
import { Registry } from 'prom-client'
import { addMetricsRoute, metricsRegistered, metricsRouteTaken } from '../http/metrics-route.js'
import { described, Metrics } from '../observers/metrics.js'
import { readInfo } from '../redis/info.js'
import type { MetricsRegistry } from '../settings/options.js'
import type { Settings } from '../settings/settings.js'
import type { Registrations } from './registrations.js'
import type { Stores } from './stores.js'

export type ChosenMetrics =
  | { readonly kind: 'none' }
  /** another registration serves the path, and its metrics count this registration too */
  | { readonly kind: 'shared', readonly metrics: Metrics }
  /** `path`: undefined if this registration serves none */
  | { readonly kind: 'own', readonly registry: MetricsRegistry, readonly path: string | undefined }

/**
 * To be called before anything is connected, since it may throw.
 *
 * @throws GuardError  if the registry holds the metrics of another registration, or the path is taken
 */
export function chooseMetrics (
  fastify: FastifyInstance, { metrics: settings }: Settings, { metrics }: Registrations
): ChosenMetrics {
  if (settings === false) return { kind: 'none' }
  const { path, registry: given } = settings
  const url = `${fastify.prefix}${path}`
  const shared = given === undefined ? metrics.get(url) : undefined
  if (shared !== undefined) return { kind: 'shared', metrics: shared }
  const isServed = path !== false && fastify.hasRoute({ method: 'GET', url })
  const registry = given ?? (isServed ? registryOfOther(fastify, path) : new Registry())
  if (registry.getSingleMetric(described.store.name) !== undefined) throw metricsRegistered()
  return { kind: 'own', registry, path: path === false || isServed ? undefined : path }
}

/** Adds the metrics to the chosen registry, and serves it. @returns undefined: metrics are off */
export function addMetrics (
  fastify: FastifyInstance, chosen: ChosenMetrics, registrations: Registrations, { status, memory, redis }: Stores
): Metrics | undefined {
  if (chosen.kind !== 'own') return chosen.kind === 'shared' ? chosen.metrics : undefined
  const { registry, path } = chosen
  const metrics = new Metrics(registry, {
    status,
    blockCount: () => memory.blocks.size,
    keyCount: () => memory.limits.size,
    journalSize: () => redis?.journal.size ?? 0,
    instances: () => redis?.availability.instances ?? 1,
    redisInfo: redis === undefined ? undefined : async () => await readInfo(redis.guarded)
  })
  redis?.guarded.on('roundTrip', seconds => metrics.roundTrip(seconds))
  redis?.guarded.on('state', state => metrics.breakerWent(state))
  redis?.guarded.on('failure', ({ kind }) => metrics.failed(kind))
  if (path !== undefined) {
    addMetricsRoute(fastify, path, registry)
    registrations.metrics.set(`${fastify.prefix}${path}`, metrics)
  }
  return metrics
}

/** The registry of fastify-metrics, which serves the path already: our metrics go there. */
function registryOfOther (fastify: FastifyInstance, path: string): MetricsRegistry {
  const other = (fastify as { metrics?: { client?: { register?: MetricsRegistry } } }).metrics?.client?.register
  if (typeof other?.registerMetric !== 'function') throw metricsRouteTaken(path)
  return other
}
