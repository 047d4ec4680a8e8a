/**
 * The settings in which each row of the compatibility table runs: in memory, on Redis, on a Redis that is down, and
 * with @fastify/rate-limit in memory, as proof of the expectation.
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

// Loaded by require: both packages declare Fastify's `config.rateLimit`, and imported types would conflict.
const rateLimit = createRequire(import.meta.url)('@fastify/rate-limit') as FastifyPluginAsync & {
  normalizeIP (ip: string, ipv6Subnet?: number): string
}

export const theirNormalizeIP = rateLimit.normalizeIP

export const settings = ['in memory', 'on Redis', 'on Redis that is down', 'as @fastify/rate-limit'] as const
export type SettingName = typeof settings[number]

/** One run of a row. */
export class Setting {
  readonly name: SettingName
  readonly #t: Test
  readonly #nameSpace: string
  readonly #registries: Registry[] = []
  readonly #proxy: TcpProxy | undefined
  /** the port of Redis, or of the proxy before it */
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

  /** Whether memory counts in this setting. */
  get isMemory (): boolean {
    return this.name !== 'on Redis'
  }

  get isTheirs (): boolean {
    return this.name === 'as @fastify/rate-limit'
  }

  /** A Fastify with the plugin, before it has routes. @param before  adds routes before the plugin */
  async open (options: RedisGuardOptions, before: (app: FastifyInstance) => void = () => {}): Promise<FastifyInstance> {
    const app = this.empty()
    before(app)
    await this.register(app, options)
    return app
  }

  /** A Fastify without the plugin. */
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
      // Long enough for Redis to answer on a busy machine.
      commandTimeout: 5000,
      ...options
    })
  }

  /** A client with ioredis' defaults, as users pass it. It loses Redis with the setting. */
  client (options: RedisOptions = {}): Redis {
    const client = new Redis({ host: '127.0.0.1', port: this.#port, ...options })
    client.on('error', () => {})
    this.#t.teardown(() => client.disconnect())
    return client
  }

  /** Call it after the set-up: it takes Redis down, if the setting says so, without waiting for the guard to notice. */
  async begin (): Promise<void> {
    await this.#proxy?.stop()
  }

  /** Waits until memory answers, if Redis is down: then no timer stands between a request and its answer. */
  async settle (app: FastifyInstance): Promise<void> {
    if (this.#proxy !== undefined) await until(() => app.redisGuard.status.store === 'memory')
  }

  /** Checks that only the expected store decided, and that no request waited for a timeout, unless it may. */
  async check (mayWait = false): Promise<void> {
    const other = this.name === 'on Redis' ? 'memory' : 'redis'
    for (const registry of this.#registries) {
      const metrics = await registry.metrics()
      const counted = /^redis_guard_decisions_total\{.*outcome="(?:allowed|limited)",source="(\w+)"\} [1-9]/gm
      const sources = [...metrics.matchAll(counted)].map(([, source]) => source)
      this.#t.notOk(sources.includes(other), `${other} decided nothing`)
      const isLate = /^redis_guard_errors_total\{kind="timeout"\} [1-9]/m.test(metrics)
      if (!mayWait) this.#t.notOk(isLate, 'no request waited for a timeout')
    }
  }
}
