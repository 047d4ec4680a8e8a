/** The `redis` option: a rule checks everything in it, and a mistake never leads to another Redis. */
import { EventEmitter } from 'node:events'
import { Redis } from 'ioredis'
import t from 'tap'
import { type OptionProblem, OptionsError } from '../../lib/errors.js'
import type { OptionRules } from '../../lib/settings/redis-option-check.js'
import {
  clusterRules, nodeConnectionRules, nodeRules, sentinelRules, serverRules, tlsRules
} from '../../lib/settings/redis-option-rules.js'
import { resolveOptions, type Settings } from '../../lib/settings/settings.js'
import { inRepository } from '../support/paths.js'
import { forms, type Ports, values } from '../support/redis-options.js'
import { typeProgram } from '../support/type-program.js'

/** Resolves options without the type checker. */
function resolve (redis: unknown, env: Readonly<Record<string, string>> = {}): Settings['redis'] {
  return resolveOptions({ redis: redis as never }, env).redis
}

function problemsOf (redis: unknown, env: Readonly<Record<string, string>> = {}): readonly OptionProblem[] {
  try {
    resolve(redis, env)
    return []
  } catch (error) {
    if (error instanceof OptionsError) return error.problems
    throw error
  }
}

const secret = 'hunter2'
const lazy = new Redis({ lazyConnect: true })

class NodeRedis extends EventEmitter {
  readonly isOpen = true
  readonly options = { password: secret }
  sendCommand () {}
}

class RedisMock extends EventEmitter {
  readonly data = { password: secret }
}

class Valkey {
  connect () {}
}

t.test('rejects contents that do not say where Redis is, each by name and with a remedy', async t => {
  const place = { remedy: 'say where Redis is, or redis: false for none' }
  const another = 'give an ioredis client, or what it connects to'
  const wrongs: [redis: unknown, problems: Partial<OptionProblem>[]][] = [
    [null, [{ option: 'redis', received: 'null' }]],
    [6379, [{ option: 'redis', received: '6379' }]],
    [new URL(`redis://:${secret}@127.0.0.1`), [{ option: 'redis', received: 'a URL object', remedy: 'give url.href' }]],
    [{ url: new URL(`redis://:${secret}@127.0.0.1`) },
      [{ option: 'redis.url', received: 'a URL object', remedy: 'give url.href' }]],
    [new (class { get host () { return '127.0.0.1' } })(),
      [{ option: 'redis', received: 'options that do not say where Redis is', ...place }]],
    [{}, [{ option: 'redis', received: 'options that do not say where Redis is', ...place }]],
    [{ db: 3, keyPrefix: 'a:' }, [{ option: 'redis', ...place }]],
    [{ url: undefined }, [{ option: 'redis.url', rule: 'given', received: 'undefined', ...place }]],
    [{ host: undefined }, [{ option: 'redis.host', rule: 'given', received: 'undefined', ...place }]],
    [{ cluster: undefined }, [{ option: 'redis.cluster', received: 'undefined', ...place }]],
    [{ client: undefined, required: true }, [{ option: 'redis.client', received: 'undefined', ...place }]],
    [{ sentinels: undefined, name: 'main' }, [{ option: 'redis.sentinels', received: 'undefined', ...place }]],
    [{ sentinels: null, name: 'main' }, [{ option: 'redis.sentinels', received: 'null', ...place }]],
    [{ host: undefined, port: undefined }, [{ option: 'redis.host' }, { option: 'redis.port' }]],
    [new NodeRedis(), [{ option: 'redis', received: 'a client of node-redis', remedy: another }]],
    [{ client: new NodeRedis() }, [{ option: 'redis.client', received: 'a client of node-redis', remedy: another }]],
    [new RedisMock(), [{ option: 'redis', received: 'a client of ioredis-mock', remedy: /redis: false/ as never }]],
    [new Valkey(), [{ option: 'redis', received: 'a client of another package', remedy: another }]],
    // Each has something of an ioredis client, but is none.
    [{ on () {}, status: 'ready' }, [{ option: 'redis', received: 'a client of another package' }]],
    [{ evalsha () {}, status: 'ready' }, [{ option: 'redis.evalsha' }, { option: 'redis.status' }]],
    [{ client: { host: 'h' } }, [{ option: 'redis.client', rule: 'a client of ioredis', received: 'an object' }]],
    [{ client: 'redis://h' }, [{ option: 'redis.client', received: 'a value of type string' }]],
    [{ client: lazy, host: 'h' },
      [{ option: 'redis.host', rule: 'left out beside redis.client', remedy: 'give it to the client' }]],
    [{ socket: { host: 'h' } }, [{ option: 'redis.socket', rule: 'a known option', remedy: /side by side/ as never }]],
    [{ uri: `redis://:${secret}@h` },
      [{ option: 'redis.uri', received: 'a value of type string', remedy: 'it is called url' }]],
    [{ hots: 'h', prot: 1 }, [
      { option: 'redis.hots', received: 'a value of type string', remedy: 'did you mean host?' },
      { option: 'redis.prot', received: 'a value of type number', remedy: 'did you mean port?' }
    ]],
    [{ host: 'h', retrystrategy: () => 1 }, [{ option: 'redis.retrystrategy', remedy: 'did you mean retryStrategy?' }]],
    [{ host: 'h', Keyprefix: 'a' }, [{ option: 'redis.Keyprefix', remedy: 'did you mean keyPrefix?' }]],
    [{ host: 'h', sentinal: [] }, [{ option: 'redis.sentinal', remedy: 'did you mean sentinels?' }]],
    [{ ulr: 'redis://h' }, [{ option: 'redis.ulr', remedy: 'did you mean url?' }]],
    [{ host: 'h', somethingElse: 1 }, [{ option: 'redis.somethingElse', remedy: /^known are .*\bhost\b/ as never }]],
    [{ host: 'h', toString: 1 }, [{ option: 'redis.toString', rule: 'a known option' }]],
    [{ host: '' }, [{ option: 'redis.host', received: 'an empty string' }]],
    [{ host: 7 }, [{ option: 'redis.host', received: '7' }]],
    [{ host: 'h', required: 'yes' }, [{ option: 'redis.required', rule: 'true or false', received: '"yes"' }]]
  ]
  for (const [redis, problems] of wrongs) {
    const found = problemsOf(redis)
    t.match(found, problems)
    t.equal(found.length, problems.length)
    t.notMatch(JSON.stringify(found), secret)
  }
})

t.test('rejects wrong nodes of a Cluster, options of nodes, and Sentinels alike', async t => {
  const node = 'redis://[user:password@]host[:port], rediss:// for TLS, a port as a number, or { host, port }'
  const wrongs: [redis: unknown, problems: Partial<OptionProblem>[]][] = [
    [{ cluster: [{}] },
      [{ option: 'redis.cluster[0]', rule: '{ host, port }', received: 'an object without host and port' }]],
    [{ cluster: [new URL('redis://h')] },
      [{ option: 'redis.cluster[0]', received: 'an object without host and port' }]],
    [{ cluster: [{ host: undefined }] }, [{ option: 'redis.cluster[0]' }]],
    [{ cluster: [6379, null] }, [{ option: 'redis.cluster[1]', received: 'null' }]],
    [{ cluster: [{ hots: 'h' }, { port: '1' }] }, [
      { option: 'redis.cluster[0].hots', remedy: 'did you mean host?' },
      { option: 'redis.cluster[1].port', received: '"1"' }
    ]],
    [{ cluster: [0, NaN, 65_536] }, [0, 1, 2].map(i => ({ option: `redis.cluster[${i}].port` }))],
    [{ cluster: [''] }, [{ option: 'redis.cluster[0]', rule: node }]],
    [{ cluster: ['6379'] }, [{ option: 'redis.cluster[0]', rule: node, received: 'a string of digits' }]],
    [{ cluster: ['redis://h/3'] }, [{ option: 'redis.cluster[0]', received: 'a URL with a path or a database' }]],
    [{ cluster: ['unix:///redis.sock'] },
      [{ option: 'redis.cluster[0]', received: 'a URL with a path or a database' }]],
    // ioredis would end the process over a text in this option.
    [{ cluster: ['redis://h?connectTimeout=500'] },
      [{ option: 'redis.cluster[0]', received: 'a URL with a query; give these as options' }]],
    [{ cluster: [{ host: 'h', connectTimeout: 1 }] },
      [{ option: 'redis.cluster[0].connectTimeout', rule: /redis\.redisOptions$/ as never }]],
    [{ cluster: [6379], redisOptions: { hots: 'h' } },
      [{ option: 'redis.redisOptions.hots', remedy: 'did you mean host?' }]],
    [{ cluster: [6379], redisOptions: { host: 'h' } },
      [{ option: 'redis.redisOptions.host', rule: /each node has its own/ as never }]],
    [{ cluster: [6379], redisOptions: { path: '/redis.sock' } }, [{ option: 'redis.redisOptions.path' }]],
    [{ cluster: [6379], redisOptions: { db: 1 } },
      [{ option: 'redis.redisOptions.db', rule: '0, the only database of a Cluster' }]],
    [{ cluster: [6379], redisOptions: secret }, [{ option: 'redis.redisOptions', received: 'a value of type string' }]],
    [{ cluster: [6379], redisOptions: { tls: { host: 'h' } } }, [{ option: 'redis.redisOptions.tls.host' }]],
    [{ cluster: [6379], password: secret },
      [{ option: 'redis.password', rule: /give it as redis\.redisOptions\.password$/ as never }]],
    [{ cluster: [6379], host: 'h', url: 'redis://h' }, [{ option: 'redis.host' }, { option: 'redis.url' }]],
    [{ cluster: [6379], dnslookup: () => {} }, [{ option: 'redis.dnslookup', remedy: 'did you mean dnsLookup?' }]],
    [{ sentinels: [{ host: 's' }] },
      [{ option: 'redis.name', rule: 'the name by which the Sentinels know the primary', received: 'undefined' }]],
    [{ sentinels: [{ host: 's' }], name: null }, [{ option: 'redis.name', received: 'null' }]],
    [{ sentinels: [{ host: 's' }], name: '' }, [{ option: 'redis.name', received: '""' }]],
    [{ sentinels: [], name: 'main' }, [{ option: 'redis.sentinels', received: 'an array of 0' }]],
    [{ sentinels: 's:26379', name: 'main' }, [{ option: 'redis.sentinels' }]],
    [{ sentinels: [new URL('redis://s:26379')], name: 'main' },
      [{ option: 'redis.sentinels[0]', received: 'an object without host and port' }]],
    [{ sentinels: ['s:26379', {}], name: 'main' },
      [{ option: 'redis.sentinels[0]', received: 'a value of type string' }, { option: 'redis.sentinels[1]' }]],
    [{ sentinels: [{ hostname: 's', prot: 1 }], name: 'main' },
      [{ option: 'redis.sentinels[0].hostname' }, { option: 'redis.sentinels[0].prot' }]],
    [{ host: 'h', tls: { port: 1, sevrername: 'x' } },
      [{ option: 'redis.tls.port' }, { option: 'redis.tls.sevrername', remedy: 'did you mean servername?' }]],
    [{ host: 'h', tls: true },
      [{ option: 'redis.tls', remedy: 'give {} for TLS with the defaults, and leave it out for none' }]],
    // It must not turn off the TLS of the URL.
    [{ url: 'rediss://h', tls: false }, [{ option: 'redis.tls' }]],
    [{ host: 'h', natMap: { 'a:1': { host: 'b', port: 1, db: 3 } } }, [{ option: 'redis.natMap' }]],
    [{ host: 'h', scripts: { a: { lua: 7 }, b: 1 } }, [{ option: 'redis.scripts' }]],
    [{ host: 'h', scripts: { b: 1 } }, [{ option: 'redis.scripts' }]],
    [{ host: 'h', himportFieldsets: [{ name: 'a', fields: ['b'] }, { name: 'a', fields: [] }] },
      [{ option: 'redis.himportFieldsets' }]],
    [{ host: 'h', himportFieldsets: [7] }, [{ option: 'redis.himportFieldsets' }]],
    [{ host: 'h', tls: { ca: [secret, ''], key: [7] } }, [{ option: 'redis.tls.ca' }, { option: 'redis.tls.key' }]]
  ]
  for (const [redis, problems] of wrongs) {
    const found = problemsOf(redis)
    t.match(found, problems)
    t.equal(found.length, problems.length)
    t.notMatch(JSON.stringify(found), secret)
  }
})

t.test('one error names all wrong entries', async t => {
  const redis = { hots: 'h', port: '6379', db: NaN, tls: { ca: 7 }, sentinels: [{ port: 0 }] }
  t.same(problemsOf(redis).map(({ option }) => option), [
    'redis.hots', 'redis.port', 'redis.db', 'redis.tls.ca', 'redis.name', 'redis.sentinels[0].port'
  ])
})

t.test('accepts undefined beside what says where Redis is, and null as ioredis does', async t => {
  const { options } = new Redis({ lazyConnect: true, host: 'h' })
  const fines: unknown[] = [
    { host: undefined, port: 6379 }, { url: undefined, host: 'h' }, { path: '/redis.sock', host: undefined },
    { cluster: undefined, port: 1 },
    { cluster: [{ host: undefined, port: 1 }] }, { sentinels: [{ port: 26379 }], name: 'main' }, { client: lazy },
    { client: lazy, required: true },
    { host: 'h', username: null, password: null, connectionName: null }, { host: 'h', hots: undefined },
    // The options of another client.
    options,
    { cluster: ['h:7000', ' rediss://h ', 7000, { port: 7000, password: 'p', tls: {} }] },
    {
      host: 'h',
      tls: {
        ca: [Buffer.from('c')],
        key: [{ pem: 'k' }],
        ALPNProtocols: ['x'],
        secureContext: { context: {} },
        family: 4
      }
    },
    {
      host: 'h',
      natMap: { 'a:1': { host: 'b', port: 1 } },
      scripts: { a: { lua: 'return 1', numberOfKeys: 0, readOnly: true } }
    },
    {
      host: 'h',
      himportFieldsets: [{ name: 'a', fields: ['b', Buffer.from('c')] }, { name: Buffer.from('b'), fields: [] }]
    },
    {
      host: 'h', Connector: class { connect () {} }, role: 'master', protocol: 2, replyMapping: 'legacy', monitor: false
    }
  ]
  for (const redis of fines) t.same(problemsOf(redis), [])
})

t.test('required is passed on in every form', async t => {
  for (const redis of [
    { url: 'redis://h' }, { port: 1 }, { sentinels: [{ host: 's' }], name: 'main' }, { cluster: [1] }, { client: lazy }
  ]) {
    t.equal((resolve({ ...redis, required: true }) as { required?: true }).required, true)
    t.notOk('required' in resolve({ ...redis, required: false }))
    t.notOk('required' in resolve(redis))
  }
})

/** The names of all options in the types of ioredis and Node. */
function namesInTypes (types: Readonly<Record<string, string>>): Record<string, string[]> {
  const folder = inRepository('test/')
  const text = [
    "import type { ClusterOptions, RedisOptions, SentinelAddress, SentinelConnectionOptions } from 'ioredis'",
    "import type { ConnectionOptions } from 'node:tls'", "import type { TcpNetConnectOpts } from 'node:net'",
    ...Object.entries(types).map(([name, type]) => `export declare const ${name}: Required<${type}>`)
  ].join('\n')
  const program = typeProgram(folder, { 'names.ts': text })
  const checker = program.getTypeChecker()
  const exported = checker.getExportsOfModule(checker.getSymbolAtLocation(program.getSourceFile(`${folder}names.ts`)!)!)
  return Object.fromEntries(exported.map(symbol => {
    return [symbol.name, checker.getTypeOfSymbol(symbol).getProperties().map(({ name }) => name).sort()]
  }))
}

t.test('there is a rule for each option in the types of ioredis and Node, and for no other', async t => {
  const names = namesInTypes({
    server: 'RedisOptions',
    sentinelConnection: 'SentinelConnectionOptions',
    cluster: 'ClusterOptions',
    nodeConnection: "NonNullable<ClusterOptions['redisOptions']>",
    sentinel: 'SentinelAddress',
    tls: 'ConnectionOptions',
    socket: 'TcpNetConnectOpts'
  })
  for (const [kind, found] of Object.entries(names)) t.ok(found.length >= 3, `${kind}: ${found.length}`)
  t.ok(names['server']!.length > 50)
  const sorted = (rules: OptionRules) => Object.keys(rules).sort()
  t.same(sorted(serverRules), names['server'])
  t.same(names['sentinelConnection']!.filter(name => !(name in serverRules)), [])
  t.same(sorted(clusterRules), names['cluster'])
  t.same(names['nodeConnection']!.filter(name => !(name in nodeConnectionRules)), [])
  t.same(sorted(nodeConnectionRules).filter(name => !names['server']!.includes(name)), ['credentials'])
  t.same(sorted(nodeRules).filter(name => !names['server']!.includes(name)), ['credentials'])
  t.same(sorted(sentinelRules), names['sentinel'])
  t.same(names['tls']!.filter(name => !(name in tlsRules)), [])
  // tls.connect passes some on to net.connect; ioredis has its profiles.
  t.same(
    sorted(tlsRules).filter(name => !names['tls']!.includes(name) && !names['socket']!.includes(name)),
    ['profile']
  )
})

t.test('an option that may not be given says why', async t => {
  for (const rules of [
    serverRules, clusterRules, nodeConnectionRules, nodeRules, sentinelRules, tlsRules
  ] as OptionRules[]) {
    for (const [name, rule] of Object.entries(rules)) {
      if ('refused' in rule) t.match(rule.refused, /^(left out: .{10}|left out beside)/, name)
      else t.match(rule.rule, /./, name)
    }
  }
})

const ports: Ports = { server: 6379, node: 6379, sentinel: 26_379 }

for (const [form, { rules, redis, taken }] of Object.entries(forms)) {
  t.test(`every option ${form} rejects wrong values by its name`, async t => {
    for (const option of Object.keys(rules)) {
      for (const [kind, value] of Object.entries(values)) {
        const problems = problemsOf(redis({ [option]: value }, ports))
        if (taken[option]?.split(' ').includes(kind)) t.same(problems, [], `${option}: ${kind}`)
        else {
          t.ok(
            problems.length > 0 && problems.every(problem => problem.option === `${form.split(' ')[0]}${option}`),
          `${option}: ${kind}`
          )
        }
      }
    }
  })
}

t.test('a database is a whole number in every form', async t => {
  for (const db of [NaN, 'cache', '1', -1, 1.5, Infinity, null, {}, 2 ** 31]) {
    for (const redis of [
      { port: 1, db },
      { url: 'redis://h', db },
      { sentinels: [{ host: 's' }], name: 'main', db },
      { cluster: [1], redisOptions: { db } }
    ]) {
      t.match(problemsOf(redis), [{ option: /\.db$/ }], JSON.stringify(redis))
    }
  }
  for (const url of ['redis://h/NaN', 'redis://h/cache', 'redis://h/-1', 'redis://h/1.5', 'redis://h/2147483648']) {
    t.match(problemsOf(url), [{ option: 'redis' }])
    t.match(problemsOf({ url }), [{ option: 'redis.url' }])
    t.match(problemsOf(undefined, { REDIS_URL: url, NODE_ENV: 'production' }), [{ option: 'REDIS_URL' }])
  }
})
