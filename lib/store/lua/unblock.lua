-- Lifts the block of an address or range, and tells the other instances; atomic.
--
-- KEYS     blocks, expiry, changes, sequence, lifted (see store/keys.ts)
-- ARGV     ip, most changes to keep, how many ms ago that was: a later block
--          stands
-- returns  1 when a block was in force, else 0
-- cost     O(log n)

local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
local liftedAtMs = nowMs - ARGV[3]
if liftedAtMs < nowMs then
  local there = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '"blockedAtMs":(%d+)'))
  -- A moment in the future is foreign.
  if there ~= nil and there > liftedAtMs and there <= nowMs then return 0 end
end

-- For blocks that come late, from an instance that could not reach Redis.
redis.call('ZADD', KEYS[5], liftedAtMs, ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -ARGV[2] - 1)

local expiresAtMs = redis.call('ZSCORE', KEYS[2], ARGV[1])
local existed = redis.call('HDEL', KEYS[1], ARGV[1])
if existed == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
local sequence = redis.call('INCR', KEYS[4])
-- A new list begins at a number of its own, so that nobody takes its changes for the next ones of an older list.
if sequence <= 1 or sequence > 9007199254740991 then
  sequence = time[1] * 1000000 + time[2]
  redis.call('SET', KEYS[4], sequence)
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[2], '*', 'sequence', sequence, 'ip', ARGV[1], 'block', '')
if expiresAtMs and tonumber(expiresAtMs) <= nowMs then return 0 end
return 1
