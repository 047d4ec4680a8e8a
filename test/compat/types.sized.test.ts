/** The types of a project that changes its import, and of one that uses both packages during the change. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import t from 'tap'
import { inRepository } from '../support/paths.js'
import { size } from '../support/size.js'
import { typeErrors } from '../support/type-program.js'

const { resolve } = createRequire(import.meta.url)

/** Both files extend the types of Fastify, so a conflict is an error in one of them. */
const extending = /\/dist\/lib\/plugin\.d\.ts$|\/@fastify\/rate-limit\//

/** Compiles files against the declarations that are published. */
function errorsOf (sources: Readonly<Record<string, string>>): readonly string[] {
  return typeErrors(inRepository('test/compat/'), sources, extending)
}

/** Replaces the test runner of @fastify/rate-limit: each statement fails to compile if a type does not fit. */
const expectations = `
declare function expect<Actual> (actual?: Actual): { type: {
  toBe<Expected> (...fits: Actual extends Expected ? [] : [never]): void
  toBeAssignableFrom (expected: unknown): void
  toBeCallableWith (...args: Actual extends (...args: infer Args) => unknown ? Args : never): void
} }
`

const everyName = `
import type {
  CreateRateLimitOptions, errorResponseBuilderContext, FastifyRateLimitOptions, FastifyRateLimitStore,
  FastifyRateLimitStoreCtor, RateLimitHook, RateLimitOptions, RateLimitPluginOptions
} from '../../dist/lib/index.js'
import { fastifyRateLimit, normalizeIP } from '../../dist/lib/index.js'

const hook: RateLimitHook = 'preHandler'
const builder = ({ after, max, ttl }: errorResponseBuilderContext) => new Error(after + max + ttl)
const storeOf = (Store: FastifyRateLimitStoreCtor, options: FastifyRateLimitOptions): FastifyRateLimitStore =>
  new Store(options)
const ofRoute: RateLimitOptions = { hook, groupId: 'a', errorResponseBuilder: (request, context) => builder(context) }
const ofLimiter: CreateRateLimitOptions = { max: 5, timeWindow: '1 minute', groupId: 'a' }
const ofPlugin: RateLimitPluginOptions = { ...ofRoute, global: false, nameSpace: 'shop:' }
const byHand: errorResponseBuilderContext = { statusCode: 429, ban: false, after: '1 minute', max: 5, ttl: 60_000 }
export default [builder(byHand), storeOf, ofLimiter, ofPlugin, fastifyRateLimit, normalizeIP('192.0.2.1')]
`

t.test('the type test of @fastify/rate-limit compiles with the import changed, and so does each name', async t => {
  const theirs = await readFile(join(dirname(resolve('@fastify/rate-limit')), 'types', 'index.tst.ts'), 'utf8')
  const changed = theirs
    .replace("from '..'", "from '../../dist/lib/index.js'")
    .replace("import { expect } from 'tstyche'", expectations)
  t.match(changed, /from '\.\.\/\.\.\/dist\/lib\/index\.js'[^]*declare function expect/)
  // One wrong statement proves that the others are checked.
  const wrong = "expect(normalizeIP('::1')).type.toBe<number>()"
  // Their file is CommonJS.
  const errors = errorsOf({ 'package.json': '{}', 'theirs.ts': `${changed}\n${wrong}\n`, 'names.ts': everyName })
  // @fastify/rate-limit ignores the first two. Here they stop the start, so the compiler reports them.
  t.equal(errors.length, 3, '', { errors })
  t.match(errors, [
    /^groupId: '42',: .* 'groupId' does not exist in type 'RedisGuardOptions'/,
    /^store: CustomStore,: .* 'store' does not exist in type 'CreateRateLimitOptions'/,
    /^expect\(normalizeIP\('::1'\)\)/
  ])
})

t.test('both packages compile in one program, whichever is imported first', async t => {
  const ours = "import redisGuard from '../../dist/lib/index.js'"
  const theirs = "import rateLimit, { type RateLimitOptions } from '@fastify/rate-limit'"
  // The compiler merges the declarations in this order.
  for (const imports of size([[theirs, ours]], [[ours, theirs], [theirs, ours]])) {
    t.same(errorsOf({
      'service.ts': `
import Fastify, { type FastifyReply, type FastifyRequest } from 'fastify'
${imports.join('\n')}

const app = Fastify()
await app.register(rateLimit, { global: false, nameSpace: 'old-' })
await app.register(redisGuard, { global: false })
const limit: RateLimitOptions = { max: 5, timeWindow: '1 minute', keyGenerator: async request => request.ip }
const ok = async (request: FastifyRequest, reply: FastifyReply) => await reply.send(request.ip)
app.get('/theirs', { config: { rateLimit: limit }, preHandler: app.rateLimit(limit) }, ok)
app.get('/ours', {
  config: { rateLimit: { cost: 2, limits: [{ name: 'burst', max: 10, timeWindow: '1s' }] } as object },
  preHandler: app.rateLimit({ algorithm: 'gcra', max: 5 })
}, ok)
// @ts-expect-error: of two declarations of config.rateLimit the narrower one holds
app.get('/ours-as-it-is', { config: { rateLimit: { cost: 2 } } }, ok)
app.get('/none', { config: { rateLimit: false } }, ok)
const limiters = [app.createRateLimit({ max: 5 }), app.createRateLimit({ cost: 2 })]
app.get('/limiters', async request => {
  const result = await limiters[0]!(request, { increment: false })
  return result.isAllowed ? result.key : result.remaining
})
// @ts-expect-error: a number, to both of them
app.get('/wrong', { config: { rateLimit: { max: '5' } } }, ok)
`
    }), [], imports.join())
  }
})
