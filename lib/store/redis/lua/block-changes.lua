-- Returns the changes of the block list since one that the caller knows. It
-- writes nothing, so it also works on a full Redis.
--
-- KEYS     changes, sequence, epoch (see store/keys.ts)
-- ARGV     id of the last known change, most changes to return
-- returns  nowMs, number of the last change (0: missing or foreign), id of the last change, the
--          changes: { id, { field, value ... } }, oldest first, and the epoch
-- cost     O(changes returned)
-- uses     number, time

local sequence = whole(redis.call('GET', KEYS[2])) or 0
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local read = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1])
return { nowMs, sequence, last and last[1] or '0-0', read and read[1][2] or {}, redis.call('GET', KEYS[3]) or '' }
