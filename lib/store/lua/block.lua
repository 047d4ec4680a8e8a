-- Blocks an address or range, and tells the other instances; atomic.
--
-- KEYS     blocks, expiry, changes, sequence, lifted (see store/keys.ts)
-- ARGV     ip, durationMs ('' for good), reason, origin, most changes to keep,
--          how many ms ago that was: what happened here since then stands
-- returns  blockedAtMs
-- cost     O(log n), and up to 100 expired blocks removed

local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)
local ip, durationMs = ARGV[1], tonumber(ARGV[2])
local blockedAtMs = nowMs - ARGV[6]

if blockedAtMs < nowMs then
  local liftedAtMs = tonumber(redis.call('ZSCORE', KEYS[5], ip) or nil)
  local there = tonumber(string.match(redis.call('HGET', KEYS[1], ip) or '', '"blockedAtMs":(%d+)'))
  local isOver = durationMs ~= nil and blockedAtMs + durationMs <= nowMs
  -- A moment in the future is foreign.
  local function holds (atMs)
    return atMs ~= nil and atMs <= nowMs
  end
  local isLifted = holds(liftedAtMs) and liftedAtMs > blockedAtMs
  if isOver or isLifted or (holds(there) and there >= blockedAtMs) then return blockedAtMs end
end

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', nowMs, 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], expired)
  redis.call('ZREM', KEYS[2], expired)
end

-- cjson would write long numbers with an exponent, and lose digits.
local json = '{"blockedAtMs":' .. string.format('%.0f', blockedAtMs)
if durationMs == nil then
  redis.call('ZREM', KEYS[2], ip)
else
  redis.call('ZADD', KEYS[2], blockedAtMs + durationMs, ip)
  json = json .. ',"expiresAtMs":' .. string.format('%.0f', blockedAtMs + durationMs)
end
json = json .. ',"origin":' .. cjson.encode(ARGV[4]) .. ',"reason":' .. cjson.encode(ARGV[3]) .. '}'

redis.call('HSET', KEYS[1], ip, json)
local sequence = redis.call('INCR', KEYS[4])
-- A new list begins at a number of its own, so that nobody takes its changes for the next ones of an older list.
if sequence <= 1 or sequence > 9007199254740991 then
  sequence = time[1] * 1000000 + time[2]
  redis.call('SET', KEYS[4], sequence)
end
redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', 'sequence', sequence, 'ip', ip, 'block', json)
return blockedAtMs
