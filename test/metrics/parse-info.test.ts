import t from 'tap'
import { parseInfo } from '../../lib/metrics/redis-info.js'

t.test('reads the fields of a reply to INFO, and none of its headings', async t => {
  const reply = '# Server\r\nredis_version:7.0.15\r\n\r\n# Memory\r\nmaxmemory_policy:noeviction\r\nused_memory:1024\r\n'
  t.same([...parseInfo(reply)], [['redis_version', '7.0.15'], ['maxmemory_policy', 'noeviction'], ['used_memory', '1024']])
})

t.test('a value may hold colons, and may be empty', async t => {
  t.same([...parseInfo('executable:C:\\redis:7\r\nconfig_file:\r\n')], [['executable', 'C:\\redis:7'], ['config_file', '']])
})

t.test('an empty reply has no fields', async t => {
  t.equal(parseInfo('').size, 0)
})
