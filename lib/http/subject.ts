/** What the guard knows of a request: its client, and the limits that have decided it so far. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Client } from '../guard/client.js'
import type { Explained } from '../guard/decision.js'
import type { Entry } from '../guard/guard.js'
import type { Explanation } from '../rules/rule.js'

/** A limit that decides a request. Several hooks may have the same limit. */
export interface RequestLimit {
  isSameAs (other: this): boolean
}

/** A limit that has decided the request, in a linked list. */
interface Mark {
  readonly limit: RequestLimit
  readonly key: string
  readonly before: Mark | undefined
}

/** `route` is a getter, because Fastify builds an object at each read of `routeOptions`: most requests need none. */
export class RequestSubject implements Entry {
  readonly isEntry = true
  readonly client: Client
  /** whether the limit of the route (for a 404, the global limit) has decided it */
  hasRouteLimit = false
  /** see `HeaderState` */
  tightest: Explanation | undefined
  /** see `HeaderState` */
  listed: readonly Explained[] = none
  #marks: Mark | undefined
  readonly #request: FastifyRequest

  constructor (request: FastifyRequest, client: Client) {
    this.client = client
    this.#request = request
  }

  /**
   * Marks the request as counted by a limit.
   *
   * @returns false: the same limit has already counted it for this key
   */
  markUnlessCounted (limit: RequestLimit, key: string): boolean {
    for (let mark = this.#marks; mark !== undefined; mark = mark.before) {
      if (mark.key === key && mark.limit.isSameAs(limit)) return false
    }
    this.#marks = { limit, key, before: this.#marks }
    return true
  }

  get isListed (): boolean {
    return this.client.exempt
  }

  get method (): string {
    return this.#request.method
  }

  get requestId (): string {
    return this.#request.id
  }

  get route (): string | undefined {
    return this.#request.routeOptions.url
  }
}

const none: readonly Explained[] = []

export type SubjectReader = (request: FastifyRequest) => RequestSubject

/** @returns a function that returns the subject of a request, and creates it at the first call */
export function subjectReader (
  fastify: FastifyInstance, readClient: (request: FastifyRequest) => Client
): SubjectReader {
  // Each registration has its own property on the request.
  const property = Symbol('redisGuard.subject')
  fastify.decorateRequest(property as unknown as string, null)
  return request => {
    const decorated = request as unknown as Record<symbol, RequestSubject | null>
    decorated[property] ??= new RequestSubject(request, readClient(request))
    return decorated[property]
  }
}
