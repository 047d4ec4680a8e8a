/** Ways in which Redis goes with a command under way: it never runs, runs later, or has run and nobody was told. */
import type { RedisServer } from '../../tools/redis-server.js'
import type { TcpProxy } from '../../tools/tcp-proxy.js'

export interface Outage {
  readonly begin: (server: RedisServer, proxy: TcpProxy) => void
  readonly end: (server: RedisServer, proxy: TcpProxy) => void
}

export const outages: Readonly<Record<string, Outage>> = {
  'hangs, and runs later what it was sent': {
    begin: server => server.signal('SIGSTOP'),
    end: server => server.signal('SIGCONT')
  },
  'cannot be reached': {
    begin: (server, proxy) => { proxy.blackhole = true },
    end: (server, proxy) => { proxy.blackhole = false }
  },
  'answers after the time limit': {
    begin: (server, proxy) => { proxy.delayMs = 1000 },
    end: (server, proxy) => { proxy.delayMs = 0 }
  }
}
