/** The guard in a NestJS application on Fastify, as docs/integration.md shows it. */
import 'reflect-metadata'
import { type ArgumentsHost, Catch, Controller, type ExceptionFilter, Get, Module, Post } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, type NestFastifyApplication, RouteConfig } from '@nestjs/platform-fastify'
import type { FastifyReply } from 'fastify'
import t, { type Test } from 'tap'
import redisGuard, { type RedisGuardOptions, RefusalError } from '../../lib/index.js'

class ShopController {
  home () { return 'hello' }
  login () { return 'welcome' }
  health () { return 'ok' }
}

class ShopModule {}

class RefusalFilter implements ExceptionFilter<RefusalError> {
  catch ({ statusCode, code, message }: RefusalError, host: ArgumentsHost): void {
    host.switchToHttp().getResponse<FastifyReply>().code(statusCode).send({ statusCode, code, message })
  }
}

/** Applies decorators by calling them: the compiler's own decorators are of a newer kind than those of NestJS. */
function decorate (name: keyof ShopController, ...decorators: readonly MethodDecorator[]): void {
  const descriptor = Object.getOwnPropertyDescriptor(ShopController.prototype, name)!
  for (const decorator of decorators) decorator(ShopController.prototype, name, descriptor)
}

Controller()(ShopController)
decorate('home', Get())
decorate('login', Post('login'), RouteConfig({ rateLimit: { max: 1 } }))
decorate('health', Get('health'), RouteConfig({ rateLimit: false }))
Module({ controllers: [ShopController] })(ShopModule)
Catch(RefusalError)(RefusalFilter)

interface Setup {
  readonly options: RedisGuardOptions
  readonly filters: readonly ExceptionFilter[]
}

const setups: Readonly<Record<string, Setup>> = {
  'by itself': { options: {}, filters: [] },
  'with problemDetails': { options: { problemDetails: true }, filters: [] },
  'with a filter': { options: {}, filters: [new RefusalFilter()] }
}

async function shop (t: Test, { options, filters }: Setup): Promise<NestFastifyApplication> {
  const app = await NestFactory.create<NestFastifyApplication>(ShopModule, new FastifyAdapter(), { logger: false })
  t.teardown(async () => await app.close())
  app.useGlobalFilters(...filters)
  await app.register(redisGuard, { redis: false, max: 2, timeWindow: '1 hour', ...options })
  await app.init()
  return app
}

async function statuses (app: NestFastifyApplication, requests: readonly string[], remoteAddress = '192.0.2.1') {
  const all: number[] = []
  for (const request of requests) {
    const [method, url] = request.split(' ') as ['GET' | 'POST', string]
    all.push((await app.inject({ method, url, remoteAddress })).statusCode)
  }
  return all
}

for (const [name, setup] of Object.entries(setups)) {
  t.test(`${name}, the global limit, the limit of a route and no limit hold`, async t => {
    const app = await shop(t, setup)
    t.same(await statuses(app, ['GET /', 'GET /', 'GET /']), [200, 200, 429])
    t.same(await statuses(app, ['POST /login', 'POST /login']), [201, 429])
    t.same(await statuses(app, ['GET /health', 'GET /health', 'GET /health']), [200, 200, 200])
    t.same(await statuses(app, ['GET /nothing', 'GET /nothing', 'GET /nothing'], '192.0.2.2'), [404, 404, 429])
  })

  t.test(`${name}, a refusal has the headers of the limit`, async t => {
    const app = await shop(t, setup)
    await statuses(app, ['GET /', 'GET /'])
    const { headers, body } = await app.inject({ url: '/', remoteAddress: '192.0.2.1' })
    t.match(headers, { 'x-ratelimit-limit': '2', 'x-ratelimit-remaining': '0', 'retry-after': '3600' })
    t.match(body, /Rate limit exceeded, retry in 1 hour/)
  })

  t.test(`${name}, a block that was set through the adapter holds`, async t => {
    const app = await shop(t, setup)
    await app.getHttpAdapter().getInstance().redisGuard.blockIP('203.0.113.7', 60)
    t.same(await statuses(app, ['GET /', 'GET /health', 'GET /nothing'], '203.0.113.7'), [403, 403, 403])
  })
}
