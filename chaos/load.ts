/**
 * Open-loop load, as a process of its own: requests are due at a fixed rate
 * whether or not those before are answered, over a number of connections to
 * each instance, and an answer's time counts from when its request was due.
 *
 *   node dist/chaos/load.js '{ "ports": [3001, 3002], "rate": 400, "connections": 64 }'
 *
 * Prints port 0, since it has none, answers its parent (LoadAsk), and ends with it.
 */
import { Agent, get } from 'node:http'
import { answerParent } from '../tools/child.js'
import { nowMs, type Stall, watchStalls } from './clock.js'
import { visit, type Path } from './plan.js'

export interface LoadSettings {
  readonly ports: readonly number[]
  /** requests in a second, over all instances */
  readonly rate: number
  /** to each instance, at most */
  readonly connections: number
}

export type LoadAsk = 'start' | 'struck' | 'stop'

/** One request that was answered or failed. */
export interface Answered {
  readonly path: Path
  readonly client: string
  /** place in `ports` */
  readonly instance: number
  readonly dueMs: number
  readonly answeredMs: number
  /** 0: no answer, but an error of the connection */
  readonly status: number
  /** of `x-ratelimit-remaining` */
  readonly remaining: number
}

export interface LoadReport {
  /** in the order of the answers */
  readonly answered: readonly Answered[]
  /** requests without an answer, long after the last was sent */
  readonly hanging: number
  readonly stalls: readonly Stall[]
}

const patienceMs = 30_000

const { ports, rate, connections } = JSON.parse(process.argv[2]!) as LoadSettings

/** The requests of two seconds. A machine that is this late would only get later with more. */
const mostWaiting = 2 * rate

const stalls = watchStalls()
const agents = ports.map(() => new Agent({ keepAlive: true, maxSockets: connections, scheduling: 'fifo' }))
const answered: Answered[] = []
let sent = 0
let startedMs = 0
let struck = false
let timer: NodeJS.Timeout | undefined

answerParent(async question => {
  switch (question as LoadAsk) {
    case 'start':
      startedMs = nowMs()
      timer = setInterval(sendDue, 1)
      return undefined
    case 'struck':
      struck = true
      return undefined
    case 'stop':
      clearInterval(timer)
      return await report()
    default: return question satisfies unknown
  }
})

console.log('port 0')

function sendDue (): void {
  for (const due = (nowMs() - startedMs) * rate / 1000; sent < due; sent++) {
    if (sent - answered.length >= mostWaiting) {
      startedMs += (due - sent) * 1000 / rate
      return
    }
    send(sent, startedMs + sent * 1000 / rate)
  }
}

function send (n: number, dueMs: number): void {
  const instance = n % ports.length
  const { path, client } = visit(Math.floor(n / ports.length), struck)
  const settle = (status: number, remaining: number) =>
    answered.push({ path, client, instance, dueMs, answeredMs: nowMs(), status, remaining })
  get({
    host: '127.0.0.1',
    port: ports[instance],
    path,
    agent: agents[instance],
    headers: { 'x-forwarded-for': client }
  }, response => {
    response.resume()
    response.once('end', () => settle(response.statusCode!, Number(response.headers['x-ratelimit-remaining'] ?? 0)))
    response.once('error', () => settle(0, 0))
  }).once('error', () => settle(0, 0))
}

async function report (): Promise<LoadReport> {
  const untilMs = nowMs() + patienceMs
  while (answered.length < sent && nowMs() < untilMs) await new Promise(resolve => setTimeout(resolve, 10))
  return { answered, hanging: sent - answered.length, stalls }
}
