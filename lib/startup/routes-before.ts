/** Routes that were added before a registration of the plugin, which therefore cannot limit them. */
import type { FastifyInstance } from 'fastify'

/** What one registration saw of a route, for those that come after it. */
interface SeenRoute {
  /** on which the route was added */
  readonly instance: object
  /** `config.rateLimit` */
  readonly rateLimit: unknown
}

/** By names such as `GET /login`. */
export type SeenRoutes = Map<string, SeenRoute>

/** Notes routes that are added from now on. */
export function watchRoutes (fastify: FastifyInstance, seen: SeenRoutes): void {
  fastify.addHook('onRoute', function ({ method, url, config }) {
    const { rateLimit } = (config ?? {}) as { rateLimit?: unknown }
    for (const name of [method].flat()) seen.set(`${name} ${withoutSlash(url)}`, { instance: this, rateLimit })
  })
}

/** What decides which of the routes from before would have been limited. */
export interface RoutesBefore {
  readonly global: boolean
  readonly seen: SeenRoutes
  /** path that serves the metrics; false: none */
  readonly metricsPath: string | false
}

/**
 * Names of the routes that a registration would have limited if it had come before them, as far as anybody knows. Of
 * earlier routes Fastify shows only method and URL. Their config and their scope are known only if another registration
 * has seen them.
 */
export function routesBefore (
  fastify: FastifyInstance, { global, seen, metricsPath }: RoutesBefore
): readonly string[] {
  const names = [...new Set(namesOf(fastify.printRoutes()))]
  return names.filter(name => {
    const at = name.indexOf(' ')
    const [method, url] = [name.slice(0, at), name.slice(at + 1)]
    if (method === 'HEAD' && names.includes(`GET ${url}`)) return false
    // Of @fastify/cors: it has to come first, so that refusals have its headers.
    if (method === 'OPTIONS' && url.endsWith('*')) return false
    // Of fastify-metrics: it has to come first, so that it serves the metrics of the guard.
    if (metricsPath !== false && name === `GET ${fastify.prefix}${metricsPath}`) return false
    const route = seen.get(name)
    if (route === undefined) return url.startsWith(fastify.prefix)
    const isInScope = route.instance === fastify || Object.prototype.isPrototypeOf.call(fastify, route.instance)
    const { rateLimit } = route
    return isInScope && rateLimit !== false && (global || (rateLimit !== undefined && rateLimit !== null))
  })
}

/**
 * A line of `printRoutes`: the lines that lead to it, its part of the URL, and methods where there is a route. All
 * routes of one URL but different constraints have a line each.
 */
const line = /^((?:│ {3}| {4})*(?:[├└]── )?)(.*?)(?: \(([A-Z-]+(?:, [A-Z-]+)*)\)(?: \{.*\})?)?$/

/** @param printed  the tree of `printRoutes`, four characters a level */
function namesOf (printed: string): string[] {
  const parts: string[] = []
  return printed.split('\n').flatMap(text => {
    const [, lead, part, methods] = line.exec(text) as unknown as [string, string, string, string | undefined]
    parts.length = Math.max(0, lead.length / 4 - 1)
    parts.push(part === '(empty root node)' ? '' : part)
    return methods?.split(', ').map(method => `${method} ${withoutSlash(parts.join(''))}`) ?? []
  })
}

/** The route `/` of a scope has its URL with and without a slash, of which `onRoute` gets one. */
function withoutSlash (url: string): string {
  return url.length > 1 && url.endsWith('/') ? url.slice(0, -1) : url
}
