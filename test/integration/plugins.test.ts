/** The guard beside the plugins of docs/integration.md, with the real packages. */
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import autoload from '@fastify/autoload'
import cors from '@fastify/cors'
import helmet from '@fastify/helmet'
import fastifyStatic from '@fastify/static'
import swagger from '@fastify/swagger'
import underPressure from '@fastify/under-pressure'
import Fastify, { type FastifyInstance } from 'fastify'
import t, { type Test } from 'tap'
import redisGuard from '../../lib/index.js'
import { inRepository } from '../support/paths.js'

const ok = async () => 'ok'
const origin = 'https://shop.example'

function emptyApp (t: Test): FastifyInstance {
  const app: FastifyInstance = Fastify()
  t.teardown(async () => await app.close())
  return app
}

async function statuses (app: FastifyInstance, urls: readonly string[]): Promise<number[]> {
  const all: number[] = []
  for (const url of urls) all.push((await app.inject(url)).statusCode)
  return all
}

t.test('@fastify/cors and @fastify/helmet before the guard', async t => {
  const app = emptyApp(t)
  await app.register(cors, { origin })
  await app.register(helmet)
  await app.register(redisGuard, { redis: false, max: 1 })
  app.get('/', ok)
  await app.redisGuard.blockIP('192.0.2.9', 60)
  const headers = { origin, 'access-control-request-method': 'GET' }
  const preflight = { method: 'OPTIONS', url: '/', headers } as const
  const blocked = '192.0.2.9'

  t.test('refusals have their headers', async t => {
    const get = { url: '/', headers: { origin } }
    t.equal((await app.inject(get)).statusCode, 200)
    for (const [refused, status] of [
      [await app.inject(get), 429],
      [await app.inject({ ...get, remoteAddress: blocked }), 403]
    ] as const) {
      t.equal(refused.statusCode, status)
      t.equal(refused.headers['access-control-allow-origin'], origin)
      t.ok(refused.headers['content-security-policy'])
    }
  })

  t.test('preflights pass for limited and blocked clients, and count for nothing', async t => {
    for (const remoteAddress of ['127.0.0.1', blocked, '192.0.2.1', '192.0.2.1']) {
      const { statusCode, headers } = await app.inject({ ...preflight, remoteAddress })
      t.equal(statusCode, 204)
      t.equal(headers['access-control-allow-origin'], origin)
      t.notOk('x-ratelimit-limit' in headers)
    }
    t.equal((await app.inject({ url: '/', remoteAddress: '192.0.2.1' })).statusCode, 200)
  })

  t.test('the guard does not warn of their routes', async t => {
    t.same(app.redisGuard.warnings, [])
  })
})

t.test('@fastify/swagger shows the routes of the application, and not /metrics', async t => {
  for (const isFirst of [true, false]) {
    const app = emptyApp(t)
    if (isFirst) await app.register(swagger, { openapi: {} })
    await app.register(redisGuard, { redis: false })
    if (!isFirst) await app.register(swagger, { openapi: {} })
    app.get('/orders', ok)
    await app.ready()
    t.same(Object.keys(app.swagger().paths ?? {}), ['/orders'])
    t.equal((await app.inject('/metrics')).statusCode, 200)
  }
})

t.test('skip leaves out the routes of @fastify/under-pressure and @fastify/static', async t => {
  const root = await mkdtemp(join(tmpdir(), 'static-'))
  t.teardown(async () => await rm(root, { recursive: true, force: true }))
  await writeFile(join(root, 'a.css'), 'p {}')
  const app = emptyApp(t)
  await app.register(redisGuard, {
    redis: false,
    max: 1,
    skip: request => ['/status', '/static/*'].includes(request.routeOptions.url ?? '')
  })
  await app.register(underPressure, { exposeStatusRoute: true })
  await app.register(fastifyStatic, { root, prefix: '/static/' })
  app.get('/', ok)
  t.same(await statuses(app, ['/status', '/status', '/static/a.css', '/static/a.css', '/', '/']), [
    200, 200, 200, 200, 200, 429
  ])
})

t.test('the status route of @fastify/under-pressure passes on its config', async t => {
  const app = emptyApp(t)
  await app.register(redisGuard, { redis: false, max: 1 })
  await app.register(underPressure, {
    exposeStatusRoute: { routeOpts: { config: { rateLimit: false } as object } }
  })
  t.same(await statuses(app, ['/status', '/status', '/status']), [200, 200, 200])
})

t.test('@fastify/autoload takes the guard as a file, loads the files by name, and passes its options on', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'autoload-'))
  t.teardown(async () => await rm(folder, { recursive: true, force: true }))
  await Promise.all(['plugins', 'routes', 'node_modules'].map(async name => await mkdir(join(folder, name))))
  await symlink(inRepository('./'), join(folder, 'node_modules/fastify-redis-guard'))
  await symlink(inRepository('node_modules/@fastify'), join(folder, 'node_modules/@fastify'))
  const files = {
    'plugins/1-cors.mjs': "export { default } from '@fastify/cors'\n",
    'plugins/2-guard.mjs':
      "export { default } from 'fastify-redis-guard'\nexport const autoConfig = { redis: false, max: 1 }\n",
    'routes/root.mjs': "export default async app => { app.get('/', async () => 'ok') }\n"
  }
  await Promise.all(Object.entries(files).map(async ([name, text]) => await writeFile(join(folder, name), text)))
  const app = emptyApp(t)
  const options = { prefix: '', logger: false, foo: 1 }
  await app.register(autoload, { dir: join(folder, 'plugins'), options })
  await app.register(autoload, { dir: join(folder, 'routes'), options })
  t.equal((await app.inject('/')).statusCode, 200)
  const { statusCode, headers } = await app.inject({ url: '/', headers: { origin } })
  t.equal(statusCode, 429)
  t.ok(headers['access-control-allow-origin'], 'cors came first')
  t.match(app.redisGuard.warnings, [{ code: 'GUARD_WARN_UNKNOWN_OPTIONS', message: /foo/ }])
})
