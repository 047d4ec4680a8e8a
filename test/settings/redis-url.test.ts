/** Redis URLs as people write them: every password works, and an unreadable URL gets a clear reason. */
import fc from 'fast-check'
import t from 'tap'
import { parseRedisUrl, type RedisAddress } from '../../lib/settings/redis-url.js'

const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000)
t.comment(`seed ${seed}`)

const local = { host: 'h', port: 6379, db: 0 }

t.test('reads the parts of a URL', async t => {
  const urls: [url: string, address: RedisAddress][] = [
    ['redis://h', local],
    ['redis://h/', local],
    ['redis://h?', local],
    ['redis://h:6380', { ...local, port: 6380 }],
    ['redis://h/7', { ...local, db: 7 }],
    ['redis://h:1/15', { host: 'h', port: 1, db: 15 }],
    ['redis://h:65535', { ...local, port: 65535 }],
    ['  redis://h\n', local],
    ['rediss://h', { ...local, tls: {} }],
    ['redis://10.0.0.1:6380', { host: '10.0.0.1', port: 6380, db: 0 }],
    ['redis://[::1]', { ...local, host: '::1' }],
    ['rediss://u:p@[2001:DB8::1]:6380/2',
      { host: '2001:DB8::1', port: 6380, db: 2, username: 'u', password: 'p', tls: {} }],
    ['redis://[::ffff:10.0.0.1]:6380', { host: '::ffff:10.0.0.1', port: 6380, db: 0 }],
    ['redis://my_host-1.example.', { ...local, host: 'my_host-1.example.' }],
    ['redis://:p@h', { ...local, password: 'p' }],
    ['redis://u@h', { ...local, username: 'u' }],
    ['redis://u:@h', { ...local, username: 'u' }],
    ['redis://@h', local],
    ['redis://:@h', local],
    ['unix:///run/redis.sock', { path: '/run/redis.sock' }],
    ['UNIX:///run/redis 1.sock', { path: '/run/redis 1.sock' }]
  ]
  for (const [url, address] of urls) t.same(parseRedisUrl(url), address, url)
})

t.test('REDISS:// in capitals means TLS', async t => {
  for (const scheme of ['REDISS', 'Rediss', 'redisS']) t.same(parseRedisUrl(`${scheme}://h`), { ...local, tls: {} })
  t.same(parseRedisUrl('REDIS://h'), local)
})

t.test('any password can be pasted unchanged, except that %40 is read as @', async t => {
  const unit =
    fc.oneof(fc.constantFrom(...'@:/#?&+= []\\"\'\n'), fc.string({ unit: 'grapheme', minLength: 1, maxLength: 1 }))
  const passwords = fc.string({ unit, minLength: 1 }).filter(text => !text.includes('%'))
  fc.assert(fc.property(passwords, password => {
    const address = parseRedisUrl(`redis://user:${password}@h:6379`)
    return typeof address === 'object' && address.password === password && address.username === 'user' &&
      address.host === 'h'
  }), { seed, numRuns: 2000 })
})

t.test('any username and password can be percent-encoded', async t => {
  const texts = fc.string({ unit: 'grapheme', minLength: 1 })
  fc.assert(fc.property(texts, texts, (username, password) => {
    const address = parseRedisUrl(`redis://${encodeURIComponent(username)}:${encodeURIComponent(password)}@h`)
    return typeof address === 'object' && address.password === password && address.username === username
  }), { seed, numRuns: 1000 })
})

t.test('a % that encodes nothing stays', async t => {
  const passwords: [written: string, read: string][] = [
    ['100%', '100%'],
    ['%', '%'],
    ['%zz', '%zz'],
    ['%ff', '%ff'],
    ['100%25', '100%'],
    ['a%40b%3A%2F%23%3F%26%20', 'a@b:/#?& ']
  ]
  for (const [written, read] of passwords) t.same(parseRedisUrl(`redis://:${written}@h`), { ...local, password: read })
})

t.test('gives the reason why a URL cannot be read', async t => {
  const kind = 'a URL of another kind'
  const part = 'a URL without a readable host, port or database number'
  const query = 'a URL with a query; give these as options'
  const urls: [url: string, reason: string][] = [
    ['', kind],
    ['localhost:6379', kind],
    ['http://h', kind],
    ['redis:h', kind],
    ['redis+tls://h', kind],
    ['redis://', part],
    ['redis://:6379', part],
    ['redis://u:p@', part],
    ['redis://h:', part],
    ['redis://h:port', part],
    ['redis://h:-1', part],
    ['redis://h:123456', part],
    ['redis://h/db', part],
    ['redis://h/-1', part],
    ['redis://h/2147483648', 'a URL with a database number that is too large'],
    ['redis://h/1/2', part],
    ['redis://h#0', part],
    ['redis://a b', part],
    ['redis://::1', part],
    ['redis://[::1', part],
    ['redis://[host]', part],
    ['redis://h:0', 'a URL with a port that is not from 1 to 65535'],
    ['redis://h:65536', 'a URL with a port that is not from 1 to 65535'],
    ['redis://h?connectTimeout=300', query],
    ['rediss://h:6380/0?tls=true', query],
    ['unix:///run/redis.sock?db=1', query],
    ['unix://run/redis.sock', 'a unix:// URL without an absolute path']
  ]
  for (const [url, reason] of urls) t.equal(parseRedisUrl(url), reason, url)
})

t.test('the reason never contains the credentials', async t => {
  const schemes = fc.constantFrom('redis', 'rediss', 'REDIS', 'unix', 'http', 'redi s', '')
  const tails = fc.constantFrom('', ':', ':0', ':65536', ':99999/x', '?x=1', '#1', ' ', '/a/b', '[')
  const passwords = fc.string({ unit: 'grapheme' }).map(text => `hunter2${text}`)
  const users = fc.constantFrom('', 'hunter2user')
  const hosts = fc.constantFrom('h', '', '[::1]', '[')
  fc.assert(fc.property(schemes, users, passwords, hosts, tails, (scheme, user, password, host, tail) => {
    const address = parseRedisUrl(`${scheme}://${user}:${password}@${host}${tail}`)
    return typeof address === 'object' || !address.includes('hunter2')
  }), { seed, numRuns: 2000 })
})

t.test('answers a text of 1 MB at once', async t => {
  const texts = [
    'redis://'.repeat(125_000), `redis://${'@'.repeat(1e6)}`, `redis://${':'.repeat(1e6)}`,
    `redis://[${':'.repeat(1e6)}`,
    'a'.repeat(1e6)
  ]
  const startedAtMs = performance.now()
  for (const text of texts) t.type(parseRedisUrl(text), 'string')
  // Steps that grow with the square of the length would take minutes.
  const tookMs = performance.now() - startedAtMs
  t.ok(tookMs < 5000, `${tookMs} ms`)
})
