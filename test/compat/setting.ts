/**
 * Where the same row of a table is played: in memory, on Redis, on a Redis that is down; and, as proof of what is
 * expected, with @fastify/rate-limit in memory.
 */
import { createRequire } from 'node:module'
import Fastify, { type FastifyInstance, type FastifyPluginAsync } from 'fastify'
import { Redis, type RedisOptions } from 'ioredis'
import { Registry } from 'prom-client'
import type { Test } from 'tap'
import redisGuard from '../../lib/index.js'
import type { RedisGuardOptions } from '../../lib/settings/options.js'
import type { RedisServer } from '../../tools/redis-server.js'
import { TcpProxy } from '../../tools/tcp-proxy.js'
import { until } from '../../tools/until.js'

// Not by import: both packages declare Fastify's `config.rateLimit`, and their types would meet.
const rateLimit = createRequire(import.meta.url)('@fastify/rate-limit') as FastifyPluginAsync & {
  normalizeIP (ip: string, ipv6Subnet?: number): string
}

export const theirNormalizeIP = rateLimit.normalizeIP

export const settings = ['in memory', 'on Redis', 'on Redis that is down', 'as @fastify/rate-limit'] as const
export type SettingName = typeof settings[number]

/** One play of a row. */
export class Setting {
  readonly name: SettingName
  readonly #t: Test
  readonly #nameSpace: string
  readonly #registries: Registry[] = []
  readonly #proxy: TcpProxy | undefined
  /** where Redis is, or was */
  readonly #port: number

  private constructor (
    t: Test,
    name: SettingName,
    server: RedisServer,
    nameSpace: string,
    proxy: TcpProxy | undefined
  ) {
    this.#t = t
    this.name = name
    this.#nameSpace = nameSpace
    this.#proxy = proxy
    this.#port = proxy?.port ?? server.port
  }

  /** @param nameSpace  keeps the keys of one row apart from those of others on the same server */
  static async start (t: Test, name: SettingName, server: RedisServer, nameSpace: string): Promise<Setting> {
    const proxy = name === 'on Redis that is down' ? await TcpProxy.start(server.port) : undefined
    if (proxy !== undefined) t.teardown(async () => await proxy.stop().catch(() => {}))
    return new Setting(t, name, server, nameSpace, proxy)
  }

  /** Whether memory counts here. */
  get isMemory (): boolean {
    return this.name !== 'on Redis'
  }

  get isTheirs (): boolean {
    return this.name === 'as @fastify/rate-limit'
  }

  /** A Fastify with the plugin, before it has routes. @param before  adds what is there before the plugin */
  async open (options: RedisGuardOptions, before: (app: FastifyInstance) => void = () => {}): Promise<FastifyInstance> {
    const app = this.empty()
    before(app)
    await this.register(app, options)
    return app
  }

  /** A Fastify without it. */
  empty (): FastifyInstance {
    const app = Fastify()
    this.#t.teardown(async () => await app.close())
    return app
  }

  async register (app: FastifyInstance, options: RedisGuardOptions): Promise<void> {
    if (this.isTheirs) {
      await app.register(rateLimit, options)
      return
    }
    const registry = new Registry()
    this.#registries.push(registry)
    await app.register(redisGuard, {
      redis: this.name !== 'in memory' && `redis://127.0.0.1:${this.#port}`,
      nameSpace: this.#nameSpace,
      metrics: { path: false, registry },
      // On a busy machine as well Redis is to answer where it is there.
      commandTimeout: 5000,
      ...options
    })
  }

  /** A client with ioredis' defaults, as users pass it; where Redis goes down it goes with it. */
  client (options: RedisOptions = {}): Redis {
    const client = new Redis({ host: '127.0.0.1', port: this.#port, ...options })
    client.on('error', () => {})
    this.#t.teardown(() => client.disconnect())
    return client
  }

  /** To be called when all is set up: Redis goes down where it has to, and nobody waits for the guard to notice. */
  async begin (): Promise<void> {
    await this.#proxy?.stop()
  }

  /** Waits until memory answers, where Redis is down: from then on no timer stands between a request and its answer. */
  async settle (app: FastifyInstance): Promise<void> {
    if (this.#proxy !== undefined) await until(() => app.redisGuard.status.store === 'memory')
  }

  /** Checks that only the named store decided, and that no request waited for a time limit, unless it may. */
  async check (mayWait = false): Promise<void> {
    const other = this.name === 'on Redis' ? 'memory' : 'redis'
    for (const registry of this.#registries) {
      const metrics = await registry.metrics()
      const counted = /^redis_guard_decisions_total\{.*outcome="(?:allowed|limited)",source="(\w+)"\} [1-9]/gm
      const sources = [...metrics.matchAll(counted)].map(([, source]) => source)
      this.#t.notOk(sources.includes(other), `${other} has decided nothing`)
      const isLate = /^redis_guard_errors_total\{kind="timeout"\} [1-9]/m.test(metrics)
      if (!mayWait) this.#t.notOk(isLate, 'no request has waited for a time limit')
    }
  }
}
