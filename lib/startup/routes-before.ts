/** Finds routes that were added before the plugin was registered, which it therefore cannot limit. */
import type { FastifyInstance } from 'fastify'

/** A route that a registration saw being added, kept for later registrations. */
interface SeenRoute {
  /** the Fastify instance to which the route was added */
  readonly instance: object
  /** `config.rateLimit` */
  readonly rateLimit: unknown
}

/** Routes by names such as `GET /login`. */
export type SeenRoutes = Map<string, SeenRoute>

/** Notes each route that is added from now on. */
export function watchRoutes (fastify: FastifyInstance, seen: SeenRoutes): void {
  fastify.addHook('onRoute', function ({ method, url, config }) {
    const { rateLimit } = (config ?? {}) as { rateLimit?: unknown }
    for (const name of [method].flat()) seen.set(`${name} ${withoutSlash(url)}`, { instance: this, rateLimit })
  })
}

/** What decides which of the earlier routes would have been limited. */
export interface RoutesBefore {
  readonly global: boolean
  readonly seen: SeenRoutes
  /** path of the metrics; false: they are not served */
  readonly metricsPath: string | false
}

/**
 * Names of the routes that this registration would have limited if it had come before them. Fastify shows only method
 * and URL of an earlier route; its config and scope are known only if an earlier registration has seen it. A route
 * that nobody has seen is listed if its URL has the prefix of this scope.
 */
export function routesBefore (
  fastify: FastifyInstance, { global, seen, metricsPath }: RoutesBefore
): readonly string[] {
  const names = [...new Set(namesOf(fastify.printRoutes()))]
  return names.filter(name => {
    const at = name.indexOf(' ')
    const [method, url] = [name.slice(0, at), name.slice(at + 1)]
    if (method === 'HEAD' && names.includes(`GET ${url}`)) return false
    // The route of @fastify/cors, which has to come first so that refusals have its headers.
    if (method === 'OPTIONS' && url.endsWith('*')) return false
    // The route of fastify-metrics, which has to come first so that it serves the metrics of the guard.
    if (metricsPath !== false && name === `GET ${fastify.prefix}${metricsPath}`) return false
    const route = seen.get(name)
    if (route === undefined) return url.startsWith(fastify.prefix)
    const isInScope = route.instance === fastify || Object.prototype.isPrototypeOf.call(fastify, route.instance)
    const { rateLimit } = route
    return isInScope && rateLimit !== false && (global || (rateLimit !== undefined && rateLimit !== null))
  })
}

/**
 * A line of `printRoutes`: tree lines, a part of the URL, and methods if there is a route. Routes of one URL with
 * different constraints have a line each.
 */
const line = /^((?:│ {3}| {4})*(?:[├└]── )?)(.*?)(?: \(([A-Z-]+(?:, [A-Z-]+)*)\)(?: \{.*\})?)?$/

/** @param printed  the tree of `printRoutes`, indented by four characters a level */
function namesOf (printed: string): string[] {
  const parts: string[] = []
  return printed.split('\n').flatMap(text => {
    const [, lead, part, methods] = line.exec(text) as unknown as [string, string, string, string | undefined]
    parts.length = Math.max(0, lead.length / 4 - 1)
    parts.push(part === '(empty root node)' ? '' : part)
    return methods?.split(', ').map(method => `${method} ${withoutSlash(parts.join(''))}`) ?? []
  })
}

/** The route `/` of a scope has two URLs, with and without a slash at the end; `onRoute` gets one of them. */
function withoutSlash (url: string): string {
  return url.length > 1 && url.endsWith('/') ? url.slice(0, -1) : url
}
