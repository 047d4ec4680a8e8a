-- Says that an instance is alive, and tells how many are, and whether this is
-- still the Redis that it was: data that is lost takes the epoch with it.
--
-- KEYS     instances, epoch (see store/keys.ts)
-- ARGV     id of the instance, ms without a heartbeat after which one counts
--          as gone, the epoch to begin where there is none
-- returns  epoch, number of instances
-- cost     O(log n)

local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], nowMs, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs - ARGV[2])
redis.call('SET', KEYS[2], ARGV[3], 'NX')
return { redis.call('GET', KEYS[2]), redis.call('ZCARD', KEYS[1]) }
