/**
 * A service that moves from @fastify/rate-limit to this package changes only its import. The same compiled
 * examples/migration.ts gets the same requests with both packages, each in its own process, and must give the same
 * answers.
 */
import { execFile } from 'node:child_process'
import { mkdtemp, realpath, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { inRepository } from '../support/paths.js'
import { Program } from '../../tools/program.js'

t.setTimeout(300_000)

const root = inRepository('./')
const packages = { theirs: '@fastify/rate-limit', ours: 'fastify-redis-guard' } as const

interface Ask {
  /** each name is a separate application */
  readonly shop?: string
  readonly options?: { readonly enableDraftSpec: boolean }
  /** the client's address */
  readonly from?: string
  readonly headers?: Readonly<Record<string, string>>
  readonly payload?: object
}

interface Request extends Ask {
  readonly afterMs: number
  readonly method: string
  readonly url: string
}

interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | number>>
  readonly body: string
}

/** Equal requests, one for each expected status. A text among the statuses is a pause. */
type Series = readonly [
  title: string, request: `${string} ${string}`, ask: Ask, expected: readonly (number | `${number} ms`)[]
]

const draft = { shop: 'draft', options: { enableDraftSpec: true } }
const manager = { authorization: 'Bearer manager' }
const key = (name: string) => ({ headers: { 'x-api-key': `key-of-${name}` } })
const as = (user: string) => ({ payload: { user } })

const script: readonly Series[] = [
  ['the plugin\'s limit', 'GET /', { from: '203.0.113.1' }, [200, 200]],
  ['... is one for all routes', 'GET /products', { from: '203.0.113.1' }, [200, '20500 ms', 200]],
  ['... of all methods', 'POST /basket', { from: '203.0.113.1' }, [201, 429]],
  ['... whose HEAD is one of them', 'HEAD /products', { from: '203.0.113.1' }, [429]],
  ['... then it is a ban', 'GET /', { from: '203.0.113.1' }, [403, 403]],
  ['... which does not concern others', 'GET /', { from: '203.0.113.2' }, [200]],
  ['... nor routes without limit', 'GET /health', { from: '203.0.113.1' }, [200]],
  ['... which routes of an encapsulated plugin are not', 'GET /partners/news', { from: '203.0.113.1' }, [403]],
  ['... and that shows how much is left', 'GET /quota', { from: '203.0.113.1' }, [200, '40000 ms', 200]],
  ['... until the window has ended', 'GET /', { from: '203.0.113.1' }, [200]],
  ['a look before the first request', 'GET /quota', { from: '203.0.113.3' }, [200, 200]],

  ['an address on the allow list', 'GET /', { from: '198.51.100.7' }, [200, 200, 200, 200, 200, 200, 200, 200]],
  ['... to which nothing is counted', 'GET /quota', { from: '198.51.100.7' }, [200]],
  ['an IPv6 client has a /64', 'GET /', { from: '2001:db8:1:2::1' }, [200, 200, 200]],
  ['... whichever address it takes', 'GET /', { from: '2001:DB8:1:2:ffff::9' }, [200, 200, 429]],
  ['... and that next to it is another one', 'GET /', { from: '2001:db8:1:3::1' }, [200]],
  ['an IPv4 client written as IPv6', 'GET /', { from: '::ffff:203.0.113.2' }, [200]],

  ['a body that does not fit is not counted in preHandler', 'POST /login', { payload: {} }, [400, 400, 400]],
  ['attempts of a user', 'POST /login', { from: '203.0.113.4', ...as('mallory') }, [200]],
  ['... wherever they come from', 'POST /login', { from: '203.0.113.5', ...as('mallory') },
    [200, 429, 403, '29999 ms', 403]],
  ['... and until the window has ended', 'POST /login', { from: '203.0.113.5', ...as('mallory') }, ['1 ms', 200]],
  ['... are not another one\'s', 'POST /login', { from: '203.0.113.5', ...as('alice') }, [200]],
  ['... nor of the plugin\'s limit', 'GET /quota', { from: '203.0.113.5' }, [200]],

  ['a client that keeps asking', 'GET /search', { from: '203.0.113.6' },
    [200, '4000 ms', 200, '1 ms', 429, '9000 ms', 429, '9999 ms', 429]],
  ['... keeps waiting', 'GET /search', { from: '203.0.113.6' }, ['10000 ms', 200, 200, 429]],
  ['a client that comes too early', 'GET /invoice.pdf', { from: '203.0.113.6' }, [200, 429, 429, 429, 429]],
  ['headers that are turned off', 'GET /till', { from: '203.0.113.6' }, [200, 429, 429, 403]],

  ['the route\'s own hook comes first', 'GET /admin', { from: '203.0.113.7' }, [401, 401, 401]],
  ['... and then the limit', 'GET /admin', { from: '203.0.113.7', headers: manager }, [200, 200, 503]],
  ['... with one key for all', 'GET /admin', { from: '203.0.113.8', headers: manager }, [503, 503]],

  ['a look', 'GET /exports/quota', { from: '203.0.113.9' }, [200]],
  ['... and an export that counts', 'POST /exports', { from: '203.0.113.9' }, [202]],
  ['... before another look', 'GET /exports/quota', { from: '203.0.113.9' }, ['1500 ms', 200, 200]],
  ['... and exports over the limit', 'POST /exports', { from: '203.0.113.9' }, [202, 429, 429, 403]],
  ['... which a look shows, too', 'GET /exports/quota', { from: '203.0.113.9' }, [200]],
  ['... until the hour is over', 'POST /exports', { from: '203.0.113.9' }, ['3598500 ms', 202]],
  ['exports of a client on the allow list', 'POST /exports', { from: '198.51.100.7' }, [202, 202, 202]],
  ['... and a look', 'GET /exports/quota', { from: '198.51.100.7' }, [200]],

  ['404s by a limit of their own', 'GET /wp-login.php', { from: '203.0.113.10' }, [404, 404, 404, 429]],
  ['... of any method', 'POST /xmlrpc.php', { from: '203.0.113.10' }, [429]],
  ['... but not for a client on the allow list', 'GET /wp-login.php', { from: '198.51.100.7' }, [404, 404, 404, 404]],
  ['404s of an encapsulated plugin by the plugin\'s limit', 'GET /partners/olds', { from: '203.0.113.11' },
    [404, 404, 404]],
  ['... which is that of found pages', 'GET /', { from: '203.0.113.11' }, [200, 200, 429]],
  ['... and the other way round', 'GET /partners/olds', { from: '203.0.113.11' }, [429]],

  ['a partner without a key', 'GET /partners/orders', {}, [401]],
  ['a partner\'s plan', 'GET /partners/orders', key('corner-store'), [200, 200, 429, 429]],
  ['... wherever it calls from', 'GET /partners/orders', { from: '203.0.113.12', ...key('corner-store') }, [403]],
  ['... and apart for another route', 'POST /partners/orders', key('corner-store'), [201, 201, 429]],
  ['another partner\'s plan', 'GET /partners/orders', key('supermarket'),
    [200, 200, 200, 200, '9999 ms', 200, 429, '1 ms', 200]],
  ['a plan of nothing', 'GET /partners/orders', key('late-payer'), [429, 429, 403]],
  ['a key that nobody knows', 'GET /partners/orders', key('nobody'), [200, 429]],
  ['a key that a function allows', 'GET /partners/orders', key('nightly-import'), [200, 200, 200]],
  ['... for what it allows', 'POST /partners/orders', key('nightly-import'), [201, 429]],

  ['callbacks heard of an address', 'GET /usage/203.0.113.1', {}, [200]],
  ['... of none on the allow list', 'GET /usage/198.51.100.7', {}, [200]],
  ['... of what was announced', 'GET /usage/203.0.113.6', {}, [200]],
  ['... but not of a limiter that a handler calls', 'GET /usage/203.0.113.9', {}, [200]],
  ['... of a user', 'GET /usage/user:mallory', {}, [200]],
  ['... of the one key of all', 'GET /usage/the%20office', {}, [200]],
  ['... of a partner', 'GET /usage/key-of-corner-store', {}, [200]],
  ['... of another partner', 'GET /usage/key-of-late-payer', {}, [200]],
  ['... of what a function allows', 'GET /usage/key-of-nightly-import', {}, [200]],

  ['headers of the draft', 'GET /products', draft, [200, 200, 200, 200, 200, 429]],
  ['... with a route\'s own limit', 'POST /login', { ...draft, ...as('alice') }, [200, 200, 429, 403]],
  ['... for 404s', 'GET /nothing', { ...draft, from: '203.0.113.13' }, [404, 404, 404, 429]]
]

/** A request that both answer differently, on purpose. Each has its own shop. */
interface Difference {
  readonly title: string
  readonly why: string
  readonly asked: readonly (readonly [request: Series[1], ask: Ask, theirs: Series[3], ours: Series[3]])[]
}

const differences: readonly Difference[] = [
  {
    title: 'HEAD of a route with a limit of its own',
    why: 'HEAD asks for what GET would answer: its own quota would double that of the route',
    asked: [['GET /till', {}, [200, 429], [200, 429]], ['HEAD /till', {}, [200], [429]]]
  },
  {
    title: '404s and the plugin\'s limit',
    why: 'a client that probes URLs is limited, even if no handler of the service asks for it',
    asked: [['GET /.env', {}, [404, 404, 404, 429], [404, 404, 404, 429]], ['GET /', {}, [200, 200], [200, 429]]]
  },
  {
    title: 'exponential backoff in memory',
    why: '@fastify/rate-limit says retry-after: 20, and admits the client after 5 s',
    asked: [['GET /invoice.pdf', {}, [200, 429, 429, 429, '19999 ms', 200], [200, 429, 429, 429, '19999 ms', 429]]]
  },
  {
    title: 'clients behind NAT64',
    why: 'these are two IPv4 clients: one /64 would give a whole carrier one quota',
    asked: [
      ['GET /', { from: '64:ff9b::c000:201' }, [200, 200, 200, 200, 200, 429], [200, 200, 200, 200, 200, 429]],
      ['GET /', { from: '64:ff9b::c000:202' }, [429], [200]]
    ]
  },
  {
    title: 'GET /metrics',
    why: 'a service without this route gets one for Prometheus',
    asked: [['GET /metrics', {}, [404], [200]]]
  }
]

interface Step {
  readonly title: string
  readonly request: Request
  readonly status: number
}

/** @returns the requests in order, each with its expected status */
function unfold (series: readonly Series[]): Step[] {
  return series.flatMap(([title, request, ask, expected]) => {
    const [method, url] = request.split(' ') as [string, string]
    const steps: Step[] = []
    let afterMs = 0
    for (const item of expected) {
      if (typeof item === 'string') {
        afterMs += parseInt(item)
        continue
      }
      steps.push({
        title: `${title}: ${request}`,
        request: { shop: 'usual', from: '203.0.113.99', ...ask, method, url, afterMs },
        status: item
      })
      afterMs = 0
    }
    return steps
  })
}

/** The requests that show the differences of one side. */
function differing (side: keyof typeof packages): (Step & Pick<Difference, 'why'>)[] {
  return differences.flatMap(({ title, why, asked }) => asked.flatMap(([request, ask, theirs, ours]) => (
    unfold([[title, request, { ...ask, shop: title }, side === 'ours' ? ours : theirs]]).map(step => ({ ...step, why }))
  )))
}

/**
 * Without NODE_OPTIONS, which contains tap's loaders, and without REDIS_URL, which would take ours out of memory. Log
 * lines would mix with the answers.
 */
const env = { PATH: process.env['PATH'], HOME: process.env['HOME'], LOG_LEVEL: 'fatal' }

async function ask (name: string, requests: readonly Request[]): Promise<Answer[]> {
  const output = await new Promise<string>((resolve, reject) => {
    const child = execFile(process.execPath, ['--import', './test/support/import-as.mjs', 'test/support/shop.mjs'], {
      cwd: root, env: { ...env, IMPORT_AS: name }, maxBuffer: 16 * 1024 * 1024
    }, (error, stdout) => error === null ? resolve(stdout) : reject(error))
    child.stdin!.end(JSON.stringify(requests))
  })
  const { name: answering, answers } = JSON.parse(output) as { name: string, answers: Answer[] }
  if (answering !== name) throw new Error(`${answering} has answered in place of ${name}`)
  return answers
}

/** Removes what only our bodies have: the code of errors, and the limit's name in results of `createRateLimit`. */
function withoutAdditions (answer: Answer, { method }: Request): Answer {
  const { status, headers, body } = answer
  // HEAD has the length of a body that it does not send.
  const whole = method === 'HEAD' && status === 429 ? '"code":"GUARD_LIMITED",' : body
  const [addition] = /"code":"GUARD_(LIMITED|BANNED)",|"limit":"[^"]+",/.exec(whole) ?? []
  if (addition === undefined) return answer
  const length = `${Number(headers['content-length']) - addition.length}`
  return { ...answer, headers: { ...headers, 'content-length': length }, body: body.replace(addition, '') }
}

/** Each side gets all requests once: first those with equal answers, then, in their own shops, the others. */
const same = unfold(script)
const unlike = { theirs: differing('theirs'), ours: differing('ours') } as const
const [theirs, ours] = await Promise.all((['theirs', 'ours'] as const).map(async side => (
  await ask(packages[side], [...same, ...unlike[side]].map(({ request }) => request))
))) as [Answer[], Answer[]]

t.test('gives the answers of @fastify/rate-limit', async t => {
  t.same([theirs.length, ours.length], [same.length + unlike.theirs.length, same.length + unlike.ours.length])
  for (const [i, { title, request, status }] of same.entries()) {
    t.equal(theirs[i]!.status, status, `${title}, with @fastify/rate-limit`, { request, answer: theirs[i] })
    const answer = withoutAdditions(ours[i]!, request)
    t.same(answer, theirs[i], `${title} has the same status, headers and body`, { request })
  }

  const compared = theirs.slice(0, same.length)
  const withHeader = (name: string) => compared.filter(({ headers }) => headers[name] !== undefined).length
  t.ok(
    withHeader('x-ratelimit-remaining') > 60 && withHeader('ratelimit-remaining') > 5 && withHeader('retry-after') > 20,
    'enough answers have these headers'
  )
})

t.test('gives other answers only where that is intended', async t => {
  for (const [side, answers] of [['theirs', theirs], ['ours', ours]] as const) {
    for (const [i, { title, why, request, status }] of unlike[side].entries()) {
      const answer = answers[same.length + i]
      t.equal(answer?.status, status, `${title}, ${side}`, { request, answer, why })
    }
  }
})

t.test('starts, serves and ends as its own program with either package', async t => {
  for (const name of Object.values(packages)) {
    const program = new Program(process.execPath, [
      '--import', './test/support/import-as.mjs', 'dist/examples/migration.js'
    ], {
      cwd: root, env: { ...env, IMPORT_AS: name, PORT: '0' }
    })
    t.teardown(async () => await program.stop('SIGKILL'))
    await program.saying(/the shop is open: http:\/\/\S+\n/, 120_000)
    const { status, headers } = await fetch(/http:\S+/.exec(program.output)![0])
    t.same([status, headers.get('x-ratelimit-limit'), headers.get('x-ratelimit-remaining')], [200, '5', '4'], name)
    program.signal('SIGTERM')
    t.equal(await program.exited(), 0, `${name} ends on SIGTERM`)
  }
})

t.test('compiles with the types of either package', async t => {
  const folder = await mkdtemp(join(tmpdir(), 'migration-'))
  t.teardown(async () => await rm(folder, { recursive: true, force: true }))
  // The compiler lists files by their real paths.
  const types = await realpath(join(root, 'node_modules/@fastify/rate-limit/types/index.d.ts'))
  await writeFile(join(folder, 'tsconfig.json'), JSON.stringify({
    extends: join(root, 'tsconfig.json'),
    compilerOptions: {
      noEmit: true,
      rootDir: root,
      typeRoots: [join(root, 'node_modules/@types')],
      paths: { 'fastify-redis-guard': [types] }
    },
    files: [join(root, 'examples/migration.ts')],
    include: []
  }))
  const output = await new Promise<string>(resolve => {
    const tsc = join(root, 'node_modules/typescript/bin/tsc')
    // Its stdout is the result, with or without errors.
    execFile(
      process.execPath,
      [tsc, '-p', folder, '--listFiles'],
      { cwd: root, env, maxBuffer: 16 * 1024 * 1024 },
      (_, stdout) => resolve(stdout)
    )
  })
  t.ok(output.split('\n').includes(types), 'their types were used', { output })
  t.same(output.split('\n').filter(line => line.includes('error TS')), [])
})
