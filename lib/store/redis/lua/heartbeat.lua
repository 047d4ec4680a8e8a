-- Tells how many instances are alive, and whether this is still the Redis that
-- it was: data that is lost takes the epoch with it. Of an instance that has
-- told what it kept in an outage, says that it is among them.
--
-- KEYS     instances, epoch (see store/keys.ts)
-- ARGV     id of the instance, 1 where it has told all, else 0; ms without a
--          heartbeat after which one counts as gone; the epoch to begin where
--          there is none; a moment by the clock here, ms since 1970
-- returns  epoch; number of instances, this one among them; how many of them
--          have had a heartbeat since that moment; ms since 1970
-- cost     O(log n)
-- uses     time

if ARGV[2] == '1' then redis.call('ZADD', KEYS[1], nowMs, ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs - ARGV[3])
-- A heartbeat in the future is foreign.
redis.call('ZREMRANGEBYSCORE', KEYS[1], nowMs + ARGV[3], '+inf')
redis.call('SET', KEYS[2], ARGV[4], 'NX')
local isThere = redis.call('ZSCORE', KEYS[1], ARGV[1])
return { redis.call('GET', KEYS[2]), redis.call('ZCARD', KEYS[1]) + (isThere and 0 or 1), redis.call('ZCOUNT', KEYS[1], ARGV[5], '+inf'), nowMs }
