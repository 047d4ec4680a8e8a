/** What a request is about, and what has become of it so far. */
import type { FastifyInstance, FastifyRequest } from 'fastify'
import type { Client, Subject } from '../guard/guard.js'

/** One registration limits a request once. */
export type Limited = 'no' | 'as a 404' | 'yes'

/** `routeOptions` builds an object at each look, so that only refusals look. */
export class RequestSubject implements Subject {
  readonly client: Client
  limited: Limited = 'no'
  readonly #request: FastifyRequest

  constructor (request: FastifyRequest, client: Client) {
    this.client = client
    this.#request = request
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
