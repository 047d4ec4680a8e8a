/** Values that are often passed as options of ioredis, and which of them each option accepts. */
import type { OptionRules } from '../../lib/settings/redis-option-check.js'
import {
  clusterRules, nodeConnectionRules, nodeRules, sentinelRules, serverRules, tlsRules
} from '../../lib/settings/redis-option-rules.js'

/** Values that often stand in the place of a correct one. */
export const values: Readonly<Record<string, unknown>> = {
  NaN,
  empty: '',
  text: 'cache',
  minus: -1,
  fraction: 1.5,
  Infinity,
  null: null,
  record: {},
  array: [],
  function: () => {}
}

const anyText = 'empty text'
const credential = 'empty text null'
const ofConnection = {
  username: credential,
  password: credential,
  tls: 'record',
  connectionName: credential,
  keyPrefix: anyText,
  blockingTimeout: 'minus',
  clientInfoTag: anyText,
  reconnectOnError: 'null function',
  maxRetriesPerRequest: 'null',
  autoPipeliningIgnoredCommands: 'array',
  scripts: 'record'
}
/** The ports of a test's servers. */
export interface Ports {
  readonly server: number
  readonly node: number
  readonly sentinel: number
}

interface Form {
  readonly rules: OptionRules
  /** the `redis` option with these options in their place */
  readonly redis: (options: object, ports: Ports) => object
  /** the kinds of values that each option accepts; every other is rejected */
  readonly taken: Readonly<Record<string, string>>
}

/** By the prefix under which a wrong option is reported, up to the first space. */
export const forms: Readonly<Record<string, Form>> = {
  'redis.': {
    rules: serverRules,
    redis: (options, { server: port }) => ({ port, ...options }),
    taken: {
      ...ofConnection,
      host: 'text',
      path: 'text',
      retryStrategy: 'null function',
      himportFieldsets: 'array',
      name: 'text null',
      sentinels: 'null',
      sentinelUsername: credential,
      sentinelPassword: credential,
      sentinelTLS: 'record',
      sentinelRetryStrategy: 'function',
      sentinelReconnectStrategy: 'function',
      natMap: 'null record function'
    }
  },
  'redis. of a Cluster': {
    rules: clusterRules,
    redis: (options, { node }) => ({ cluster: [node], ...options }),
    taken: {
      keyPrefix: anyText,
      clusterRetryStrategy: 'null function',
      clusterNodeRetryStrategy: 'null function',
      scaleReads: 'function',
      redisOptions: 'record',
      resolveSrv: 'function',
      dnsLookup: 'function',
      natMap: 'null record function',
      autoPipeliningIgnoredCommands: 'array',
      scripts: 'record',
      himportFieldsets: 'array'
    }
  },
  'redis.redisOptions.': {
    rules: nodeConnectionRules,
    redis: (options, { node }) => ({ cluster: [node], redisOptions: options }),
    taken: ofConnection
  },
  'redis.cluster[0].': {
    rules: nodeRules,
    redis: (options, { node: port }) => ({ cluster: [{ port, ...options }] }),
    taken: {
      username: credential, password: credential, tls: 'record', connectionName: credential, host: 'text'
    }
  },
  'redis.sentinels[0].': {
    rules: sentinelRules,
    redis: (options, { sentinel: port }) => ({ sentinels: [{ port, ...options }], name: 'main' }),
    taken: { host: 'text' }
  },
  'redis.tls.': {
    rules: tlsRules,
    redis: (options, { server: port }) => ({ port, tls: options }),
    taken: {
      ca: 'text',
      cert: 'text',
      crl: 'text',
      key: 'text record',
      pfx: 'text record',
      passphrase: anyText,
      servername: anyText,
      checkServerIdentity: 'function',
      ciphers: 'text',
      sigalgs: 'text',
      ecdhCurve: 'text',
      secureProtocol: 'text',
      ALPNProtocols: 'array',
      pskCallback: 'function',
      clientCertEngine: 'text',
      privateKeyEngine: 'text',
      privateKeyIdentifier: 'text',
      lookup: 'function'
    }
  }
}
