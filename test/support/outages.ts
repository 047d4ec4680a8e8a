/** Ways in which Redis goes away during a command: it never runs, runs later, or has run without an answer. */
import type { RedisServer } from '../../tools/redis-server.js'
import type { TcpProxy } from '../../tools/tcp-proxy.js'

export interface Outage {
  readonly begin: (server: RedisServer, proxy: TcpProxy) => void
  readonly end: (server: RedisServer, proxy: TcpProxy) => void
}

export const outages: Readonly<Record<string, Outage>> = {
  'hangs, and runs commands later': {
    begin: server => server.signal('SIGSTOP'),
    end: server => server.signal('SIGCONT')
  },
  'cannot be reached': {
    begin: (server, proxy) => { proxy.blackhole = true },
    end: (server, proxy) => { proxy.blackhole = false }
  },
  'answers after the timeout': {
    begin: (server, proxy) => { proxy.delayMs = 1000 },
    end: (server, proxy) => { proxy.delayMs = 0 }
  }
}
