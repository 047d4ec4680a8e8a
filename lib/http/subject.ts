/** What a request is about, and what has become of it so far. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Client } from '../guard/client.js'
import type { Explained } from '../guard/decision.js'
import type { Entry } from '../guard/guard.js'
import type { Explanation } from '../rules/rule.js'

/** A limit that decides a request; several hooks may have the same one. */
export interface RequestLimit {
  isSameAs (other: this): boolean
}

/** A limit that has decided a request, and the one before it. */
interface Mark {
  readonly limit: RequestLimit
  readonly key: string
  readonly before: Mark | undefined
}

/** `routeOptions` builds an object at each look, so that only refusals look. */
export class RequestSubject implements Entry {
  readonly isEntry = true
  readonly client: Client
  /** the limit of its route has decided it, or of a 404 the global limit */
  hasRouteLimit = false
  /** of the limit whose headers the reply has */
  tightest: Explanation | undefined
  /** limits in the standard headers of the reply */
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
   * @returns false: the same limit has counted it for that key already
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

/** @returns the subject of a request, made when it is first asked for */
export function subjectReader (fastify: FastifyInstance, clientOf: (request: FastifyRequest) => Client): SubjectReader {
  // One for each registration, so that two of them do not meet on a request.
  const property = Symbol('redisGuard.subject')
  fastify.decorateRequest(property as unknown as string, null)
  return request => {
    const identified = request as unknown as Record<symbol, RequestSubject | null>
    identified[property] ??= new RequestSubject(request, clientOf(request))
    return identified[property]
  }
}
