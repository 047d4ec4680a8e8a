/** What the registrations of one application know of each other, such as those in sibling scopes. */
import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import type { Metrics } from '../observers/metrics.js'
import { attached } from '../runtime/attached.js'
import type { SeenRoutes } from './routes-before.js'

export interface Registrations {
  readonly application: string
  /** by the path that serves them */
  readonly metrics: Map<string, Metrics>
  readonly routes: SeenRoutes
  /** how many there are in one scope, or in one inside of it: each has counters of its own */
  within: number
  /** Fastify closes one after the other: if each of them waited for a Redis that hangs, that would take long */
  tryUntilMs?: number
}

/** Under which the server keeps them: it is all that sibling scopes share. */
const registrations = Symbol('fastify-redis-guard.registrations')

export function registrationsOf ({ server }: FastifyInstance): Registrations {
  return attached(server, registrations, () => (
    { application: randomUUID(), metrics: new Map(), routes: new Map(), within: 1 }
  ))
}
