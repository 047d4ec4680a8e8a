-- Takes back hits that are not to count, from the windows in which they were
-- counted; atomic. The steps are those of `refund` in rules/rate-limit.ts.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter: algorithm
--          (1 fixed-window, 2 sliding-window, 3 gcra), excess (0 none), windowMs,
--          cost, atMs of the counter when it was counted. Whole numbers all.
-- returns  1
-- error    GUARDLOST: as in take.lua
-- cost     two commands for each counter; O(1) each

local number, count = tonumber(ARGV[1]), #KEYS
if number > 0 then
  local last = tonumber(redis.call('GET', KEYS[count]) or nil)
  if last == nil or number <= last then return redis.error_reply('GUARDLOST call ' .. ARGV[1] .. ' is not the next one') end
  redis.call('SET', KEYS[count], ARGV[1], 'KEEPTTL')
  count = count - 1
end

local FIXED_WINDOW, SLIDING_WINDOW = 1, 2

-- What is no counter of ours is left alone.
local function read (...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or reply.err == nil then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.call(...) end
  return false
end

local tellsExpiry = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

for i = 1, count do
  local key, first = KEYS[i], 5 * i - 3
  local algorithm, excess, windowMs, cost, countedAtMs = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4])
  if algorithm == FIXED_WINDOW then
    local used = tonumber(read('GET', key) or nil)
    if used ~= nil and used > 0 then
      local atMs = tellsExpiry and redis.call('PEXPIRETIME', key) or nowMs + redis.call('PTTL', key)
      -- Where the end is told as time left, the two clocks that Redis has may be a ms apart.
      if math.abs(atMs - countedAtMs) <= 1 or (excess > 0 and atMs > countedAtMs) then
        redis.call('SET', key, math.max(0, used - cost), 'KEEPTTL')
      end
    end
  else
    local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
    local used, previous, atMs = tonumber(fields[1] or nil), tonumber(fields[2] or nil), tonumber(fields[3] or nil)
    if used ~= nil and previous ~= nil and atMs ~= nil then
      if algorithm ~= SLIDING_WINDOW then
        redis.call('HSET', key, 'used', math.max(0, used - cost * windowMs))
      elseif atMs == countedAtMs then
        redis.call('HSET', key, 'used', math.max(0, used - cost))
      elseif atMs == countedAtMs + windowMs then
        redis.call('HSET', key, 'previous', math.max(0, previous - cost))
      end
    end
  end
end
return 1
