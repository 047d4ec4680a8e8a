/**
 * Finds the limit of each route: its settings, and its name, by which its counters are kept. A HEAD route shares the
 * name of the GET route at its URL; since HEAD asks for the same as GET, counters of its own would double the quota.
 */
import type { RouteOptions } from 'fastify'
import type { StoreFor } from '../compat/custom-store.js'
import type { Clients } from '../guard/clients.js'
import type { Guard } from '../guard/guard.js'
import type { LimitRegistry } from '../limits/registry.js'
import { resolveRouteLimit } from '../settings/limit-settings.js'
import type { RouteRateLimitOptions } from '../settings/options.js'
import type { Settings } from '../settings/settings.js'
import { groupName, Limiter } from './limiter.js'

export interface RouteLimitsParts {
  readonly clients: Clients
  readonly guard: Guard
  readonly registry: LimitRegistry
  readonly settings: Settings
  /** prefix of the name of each limit, for a second registration; empty for the first */
  readonly namePrefix: string
  /** returns the store of a limit if the user has one */
  readonly storeFor: StoreFor
}

export class RouteLimits {
  readonly #parts: RouteLimitsParts
  readonly #global: Limiter
  /** names of the limits of GET routes, by URL */
  readonly #namesOfGet = new Map<string, string>()

  /** @param global  the limit of routes without a limit of their own */
  constructor (parts: RouteLimitsParts, global: Limiter) {
    this.#parts = parts
    this.#global = global
  }

  /** @returns undefined: the route has no limit */
  of (route: RouteOptions): Limiter | undefined {
    const { clients, guard, registry, settings, namePrefix, storeFor } = this.#parts
    const config: unknown = (route.config as { rateLimit?: unknown } | undefined)?.rateLimit
    if (config === false) return undefined
    if (config === undefined || config === null) return settings.global ? this.#global : undefined
    if (typeof config !== 'object' || Array.isArray(config)) {
      throw new Error('Unknown value for route rate-limit configuration')
    }
    const where = `${methodsOf(route)} ${route.url} config.rateLimit`
    const own = resolveRouteLimit(config as RouteRateLimitOptions, settings.limit, where)
    return new Limiter({
      clients,
      guard,
      registry,
      name: `${namePrefix}${this.#nameOf(route, own.groupId)}`,
      settings: own,
      store: storeFor(own, config, route)
    })
  }

  #nameOf (route: RouteOptions, groupId: string | undefined): string {
    const methods = methodsOf(route)
    const constraints = Object.entries(route.constraints ?? {}).map(([by, value]) => ` ${by}=${String(value)}`)
    const url = `${route.url}${constraints.join('')}`
    // In a scope with a prefix, Fastify adds the HEAD route of `/prefix` as `/prefix/`.
    const place = url.replace(/(?<=.)\/(?= |$)/, '')
    const isHead = methods.length === 1 && methods[0] === 'HEAD'
    const ofGet = isHead ? this.#namesOfGet.get(place) ?? `GET:${url}` : undefined
    const name = groupId === undefined ? ofGet ?? `${methods.join(',')}:${url}` : groupName(groupId)
    if (methods.includes('GET')) this.#namesOfGet.set(place, name)
    return name
  }
}

function methodsOf ({ method }: RouteOptions): readonly string[] {
  return [method].flat().map(method => method.toUpperCase())
}
