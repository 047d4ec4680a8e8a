/**
 * Compares the guard with plain Fastify and with other limiters:
 *
 *   npm run bench
 *   npm run bench -- --quick      one table of the variants that matter most, in under four minutes
 *   npm run --silent bench -- --json --scenario normal --only redis
 *
 * options.ts has all options. The bench starts all servers itself, on free ports,
 * and stops each by its process id.
 */
import { execFile } from 'node:child_process'
import { cpus } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { Redis } from 'ioredis'
import { RedisServer } from '../tools/redis-server.js'
import { Child } from '../tools/child.js'
import { notPinnedBecause, otherCore, pinned, serverCore } from '../tools/cores.js'
import { goalsOf } from './goals.js'
import type { HeapReport } from './heap.js'
import { measure, type ScenarioReport } from './measure.js'
import { type BenchOptions, readOptions, sizes } from './options.js'
import { measureRedisBytes } from './redis-bytes.js'
import { pingMicros } from './redis-meter.js'
import { renderAdded, renderGoals, renderScenario, renderSizes } from './report.js'
import { quick, type Scenario, scenarios } from './scenarios.js'
import { type VariantName, variants } from './variants.js'

const options = readOptions(process.argv.slice(2))
const pinning = notPinnedBecause === undefined ? ['--server_cpulist', String(otherCore)] : []
const server = await RedisServer.start(...pinning)
const redis = server.client()
try {
  await run(options)
} finally {
  redis.disconnect()
  await server.stop()
}

async function run ({ json, quick: isQuick, scenario: wanted }: BenchOptions): Promise<void> {
  const machine = {
    cpu: cpus()[0]?.model ?? 'unknown',
    cores: cpus().length,
    node: process.version,
    redis: /redis_version:(\S+)/.exec(await redis.info('server'))?.[1],
    pinned: notPinnedBecause === undefined
      ? `servers to core ${serverCore}, wrk and Redis to core ${otherCore}`
      : `no: ${notPinnedBecause}`
  }
  const print = (text: string | undefined) => { if (!json && text !== undefined) console.log(`${text}\n`) }
  print(Object.entries(machine).map(([name, value]) => `${name}: ${value}`).join('\n'))

  const reports: ScenarioReport[] = []
  for (const scenario of isQuick ? [quick] : scenarios) {
    if (wanted !== undefined && wanted !== scenario.name) continue
    const report = await runScenario(scenario)
    if (report === undefined) continue
    reports.push(report)
    print(renderScenario(report))
    if (scenario.name === 'one-at-a-time') print(renderAdded(report))
  }

  const withSizes = wanted === sizes || (wanted === undefined && options.only === undefined && !isQuick)
  const redisBytes = withSizes ? await measureRedisBytes(redis, server.port) : undefined
  const heap = withSizes ? await measureHeap() : undefined
  if (redisBytes !== undefined && heap !== undefined) print(renderSizes(redisBytes, heap))
  const goals = goalsOf({ scenarios: reports, redisBytes, heap })
  if (goals.length > 0) print(renderGoals(goals))
  if (json) console.log(JSON.stringify({ machine, options, scenarios: reports, redisBytes, heap, goals }, null, 2))
}

/** @returns undefined if `--only` leaves out all of its variants */
async function runScenario (scenario: Scenario): Promise<ScenarioReport | undefined> {
  const hasIncrex = (await redis.call('COMMAND', 'INFO', 'INCREX') as readonly unknown[])[0] !== null
  const chosen = scenario.variants.filter(name => isChosen(name) && (name !== 'increx' || hasIncrex))
  if (chosen.length === 0) return undefined
  const proxyFile = new URL('./delay-proxy.js', import.meta.url)
  const proxy = scenario.redisDelayMs === 0
    ? undefined
    : await Child.start(otherCore, proxyFile, String(server.port), String(scenario.redisDelayMs))
  try {
    const redisPort = proxy?.port ?? server.port
    const ping = await measurePing(redisPort)
    const connections = scenario.connections === 'given' ? options.connections : [scenario.connections]
    const { rounds, seconds } = options
    const rows = await measure({
      scenario,
      variants: chosen,
      connections,
      rounds,
      seconds,
      redisPort,
      nearRedisPort: server.port,
      redis,
      onProgress: showProgress
    })
    return { name: scenario.name, title: scenario.title, pingMicros: ping, rows }
  } finally {
    await proxy?.stop()
    showProgress('')
  }
}

/** Measures from this process, through the proxy if the servers use one. */
async function measurePing (port: number): Promise<number> {
  const client: Redis = redis.duplicate({ port })
  try {
    return await pingMicros(client)
  } finally {
    client.disconnect()
  }
}

async function measureHeap (): Promise<HeapReport> {
  const heap = fileURLToPath(new URL('./heap.js', import.meta.url))
  const [program, args] = pinned(serverCore, process.execPath, ['--expose-gc', heap])
  const { stdout } = await promisify(execFile)(program, args, { timeout: 120_000, killSignal: 'SIGKILL' })
  return JSON.parse(stdout) as HeapReport
}

function isChosen (name: VariantName): boolean {
  return options.only === undefined ||
    `${name} ${variants[name].store}`.toLowerCase().includes(options.only.toLowerCase())
}

/** Overwrites one line of the terminal. */
function showProgress (text: string): void {
  if (process.stderr.isTTY) process.stderr.write(`\r\x1b[K${text}`)
}
