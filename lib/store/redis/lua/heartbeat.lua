-- Says how many instances are alive, and the epoch of Redis' data: data that is
-- lost takes the epoch with it. Counts an instance as alive once it has replayed
-- its journal to this data.
--
-- KEYS     instances, epoch (see store/keys.ts)
-- ARGV     id of the instance; the epoch that its replay went to, or '' where that
--          is not over; ms without a heartbeat after which an instance counts as
--          gone; the epoch to begin where there is none; a moment by Redis' clock,
--          ms since 1970
-- returns  epoch; number of instances, this one among them; how many of them
--          have had a heartbeat since that moment; ms since 1970
-- cost     O(log n)
-- uses     time

local epoch = redis.call('GET', KEYS[2])
-- An epoch that would not survive the way to the instance and back is foreign.
if not epoch or not string.match(epoch, '^[%w-]+$') then
  epoch = ARGV[4]
  redis.call('SET', KEYS[2], epoch)
end
if epoch == ARGV[2] then redis.call('ZADD', KEYS[1], nowMs, ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs - ARGV[3])
-- So is a heartbeat in the future.
redis.call('ZREMRANGEBYSCORE', KEYS[1], nowMs + ARGV[3], '+inf')
local isThere = redis.call('ZSCORE', KEYS[1], ARGV[1])
local instances = redis.call('ZCARD', KEYS[1]) + (isThere and 0 or 1)
return { epoch, instances, redis.call('ZCOUNT', KEYS[1], ARGV[5], '+inf'), nowMs }
