/** The example service and a real Redis, watched by a real Prometheus with the shipped configuration and alerts. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import t from 'tap'
import { inRepository } from '../support/paths.js'
import { findProgram, freePort, Program } from '../../tools/program.js'
import { RedisServer } from '../../tools/redis-server.js'

const shipped = inRepository('examples/prometheus/')
const example = inRepository('dist/examples/server.js')

t.test('promtool accepts the files that we ship', async t => {
  const checks = [
    { promise: 'the configuration', args: ['check', 'config', 'prometheus.yml'] },
    { promise: 'the alert rules', args: ['check', 'rules', 'alerts.yml'] },
    { promise: 'that each alert fires when it should, and only then', args: ['test', 'rules', 'alerts.test.yml'] }
  ]
  for (const { promise, args } of checks) {
    const { code, output } = await promtool(args)
    t.equal(code, 0, promise, { output })
  }
})

t.test('each alert has a test', async t => {
  const rules = await readFile(join(shipped, 'alerts.yml'), 'utf8')
  const tests = await readFile(join(shipped, 'alerts.test.yml'), 'utf8')
  const alerts = [...rules.matchAll(/- alert: (\w+)/g)].map(([, name]) => name!)
  t.not(alerts.length, 0)
  t.same(alerts.filter(name => !tests.includes(`alertname="${name}"`)), [])
})

t.test('Prometheus sees the decisions, and the service without Redis', async t => {
  const redis = await RedisServer.start()
  t.teardown(async () => await redis.stop())
  const service = await startExample(redis.url)
  t.teardown(async () => await service.program.stop())
  const prometheus = await startPrometheus(service.port)
  t.teardown(async () => await prometheus.stop())

  t.same(await statusesOf(7, service.login('198.51.100.1')), [200, 200, 200, 200, 200, 429, 429])
  t.same(await statusesOf(2, service.home('198.51.100.2')), [200, 200])
  t.same(await statusesOf(1, service.block('203.0.113.7')), [200])
  t.same(await statusesOf(3, service.home('203.0.113.7')), [403, 403, 403])

  await t.test('the target is up', async t => {
    const [target] = await eventually(async () => {
      const { activeTargets } =
        await prometheus.api('targets') as { activeTargets: Array<{ health: string, lastError: string }> }
      return activeTargets
    }, targets => targets[0]?.health === 'up')
    t.match(target, { health: 'up', lastError: '' })
  })

  await t.test('promtool finds no error in the metrics', async t => {
    const { code, output } = await promtool(['check', 'metrics'], await service.metrics())
    t.match({ code, output }, { code: 0, output: /^$/ })
  })

  await t.test('the alerts use only metrics that are served', async t => {
    const text = await service.metrics()
    const served = [...text.matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name!)
    const asked = new Set((await readFile(join(shipped, 'alerts.yml'), 'utf8')).match(/redis_guard_\w+/g))
    t.not(asked.size, 0)
    t.same([...asked].filter(name => !served.includes(name)), [])
  })

  await t.test('decisions are counted by limit and outcome', async t => {
    const decisions =
      await prometheus.series('sum by (limit, outcome) (redis_guard_decisions_total)', series => total(series) === 13)
    t.same(Object.fromEntries(decisions.map(({ metric, value }) => [
      `${metric['limit'] ?? ''} ${metric['outcome']}`,
      value
    ])), {
      'POST:/login allowed': 5,
      'POST:/login limited': 2,
      // two requests to the home page, and the one that blocked
      'global allowed': 3,
      ' blocked': 3
    })
  })

  await t.test('Redis reports its own values', async t => {
    t.equal(await prometheus.value('redis_guard_redis_up', 1), 1)
    t.equal(await prometheus.value('redis_guard_store{store="redis"}', 1), 1)
    t.equal(await prometheus.value('redis_guard_breaker_state{state="closed"}', 1), 1)
    const [memory] = await prometheus.series('redis_guard_redis_memory_used_bytes', series => series.length > 0)
    t.ok(memory!.value > 0)
  })

  await t.test('Prometheus sees that Redis was killed, and an alert fires', async t => {
    await redis.kill()
    t.equal(await prometheus.value('redis_guard_redis_up', 0), 0)
    t.equal(await prometheus.value('redis_guard_store{store="memory"}', 1), 1)
    const firing = 'ALERTS{alertname="RedisGuardOnMemory", alertstate="firing"}'
    t.equal(await prometheus.value(firing, 1), 1)
  })

  await t.test('clients are answered during the outage', async t => {
    t.same(await statusesOf(7, service.login('198.51.100.3')), [200, 200, 200, 200, 200, 429, 429])
    t.same(await statusesOf(1, service.home('203.0.113.7')), [403], 'a blocked client is still blocked')
    const allowed =
      await prometheus.value('redis_guard_decisions_total{limit="POST:/login", outcome="allowed", source="memory"}', 5)
    t.equal(allowed, 5)
  })

  await t.test('Prometheus sees that Redis is back', async t => {
    await redis.restart()
    t.equal(await prometheus.value('redis_guard_redis_up', 1), 1)
    t.equal(await prometheus.value('redis_guard_store{store="redis"}', 1), 1)
  })
})

interface Series {
  readonly metric: Readonly<Record<string, string>>
  readonly value: number
}

async function promtool (args: readonly string[], input = ''): Promise<{ code: number | null, output: string }> {
  const child = spawn(findProgram('promtool'), args, { cwd: shipped, stdio: ['pipe', 'pipe', 'pipe'] })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => { output += text })
  }
  child.stdin.end(input)
  const [code] = await once(child, 'close') as [number | null]
  return { code, output }
}

async function startExample (redisUrl: string) {
  const port = await freePort()
  const url = `http://127.0.0.1:${port}`
  // Nothing else of this environment: it contains tap's loaders, and perhaps variables that the guard reads.
  const env = { PORT: String(port), REDIS_URL: redisUrl, REDIS_ENABLED: 'true' }
  const program = new Program(process.execPath, [example], { env })
  await program.saying(/for Prometheus/)
  const from = (ip: string) => ({ 'x-forwarded-for': ip })
  return {
    port,
    program,
    home: (ip: string) => async () => await fetch(`${url}/`, { headers: from(ip) }),
    login: (ip: string) => async () => await fetch(`${url}/login`, { method: 'POST', headers: from(ip) }),
    block: (ip: string) => async () => await fetch(`${url}/blocks/${ip}`, { method: 'POST' }),
    metrics: async () => await (await fetch(`${url}/metrics`)).text()
  }
}

async function startPrometheus (targetPort: number) {
  const folder = await mkdtemp(join(tmpdir(), 'prometheus-'))
  await cp(shipped, folder, { recursive: true })
  await change(join(folder, 'prometheus.yml'), [
    [/dns_sd_configs:\n.*(?:\n {8}.*)*/, `static_configs:\n      - targets: ['127.0.0.1:${targetPort}']`],
    [/(scrape_interval|evaluation_interval): .*/g, '$1: 500ms']
  ])
  await change(join(folder, 'alerts.yml'), [[/for: .*/g, 'for: 500ms']])
  const port = await freePort()
  const program = new Program(findProgram('prometheus'), [
    `--config.file=${join(folder, 'prometheus.yml')}`, `--storage.tsdb.path=${join(folder, 'data')}`,
    `--web.listen-address=127.0.0.1:${port}`
  ])
  await program.saying(/Server is ready to receive web requests/)

  const api = async (path: string): Promise<unknown> => {
    const answer =
      await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json() as { status: string, data: unknown }
    if (answer.status !== 'success') throw new Error(`Prometheus answers ${JSON.stringify(answer)} to ${path}`)
    return answer.data
  }
  const series = async (
    query: string,
    accept: (series: readonly Series[]) => boolean
  ): Promise<readonly Series[]> => await eventually(async () => {
    const { result } = await api(`query?query=${encodeURIComponent(query)}`) as {
      result: Array<{ metric: Series['metric'], value: [number, string] }>
    }
    return result.map(({ metric, value: [, value] }) => ({ metric, value: Number(value) }))
  }, accept)
  return {
    api,
    series,
    /** The only value of a query; waits for the expected one. */
    value: async (query: string, expected: number) =>
      (await series(query, found => found.length === 1 && found[0]!.value === expected))[0]?.value,
    stop: async () => {
      await program.stop()
      await rm(folder, { recursive: true, force: true })
    }
  }
}

/** @throws if there is nothing to change: otherwise the test would run with other settings */
async function change (path: string, changes: ReadonlyArray<readonly [from: RegExp, to: string]>): Promise<void> {
  let text = await readFile(path, 'utf8')
  for (const [from, to] of changes) {
    if (text.search(from) === -1) throw new Error(`${path} has no ${String(from)}`)
    text = text.replace(from, to)
  }
  await writeFile(path, text)
}

async function statusesOf (times: number, send: () => Promise<Response>): Promise<number[]> {
  const statuses: number[] = []
  for (let sent = 0; sent < times; sent++) {
    const response = await send()
    await response.arrayBuffer()
    statuses.push(response.status)
  }
  return statuses
}

function total (series: readonly Series[]): number {
  return series.reduce((sum, { value }) => sum + value, 0)
}

/** Asks until the answer is accepted. After the timeout, returns the last answer for the assertion. */
async function eventually<T> (ask: () => Promise<T>, accept: (answer: T) => boolean, withinMs = 20_000): Promise<T> {
  const untilMs = Date.now() + withinMs
  for (;;) {
    const answer = await ask()
    if (accept(answer) || Date.now() > untilMs) return answer
    await sleep(50)
  }
}
