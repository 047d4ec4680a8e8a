/** What all registrations of one application share, also those in sibling scopes. */
import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../observers/metrics.js'
import { attached } from '../runtime/attached.js'
import type { SeenRoutes } from './routes-before.js'

export interface Registrations {
  /** id of this process's application */
  readonly application: string
  /** by the URL that serves them */
  readonly metrics: Map<string, Metrics>
  readonly routes: SeenRoutes
  /** registrations so far in one scope and the scopes inside it; each has counters of its own */
  within: number
  /**
   * End of the one try that all registrations make, while closing, to reach a Redis that is away. Fastify closes them
   * one after the other, so a try of each would take long.
   */
  tryUntilMs?: number
}

/** The server keeps them: it is the only object that sibling scopes share. */
const registrations = Symbol('fastify-redis-guard.registrations')

export function registrationsOf ({ server }: FastifyInstance): Registrations {
  return attached(server, registrations, () => (
    { application: randomUUID(), metrics: new Map(), routes: new Map(), within: 1 }
  ))
}
