-- Adds hits that were refused without asking Redis to the counters of
-- fixed-windows; atomic. A window that is over, or another one by now, is left
-- as it is.
--
-- KEYS     counters
-- ARGV     for each: end of the window in ms since 1970, how many to add
-- returns  how many counters were added to
-- cost     two commands for each counter; O(1) each

-- Redis 7 tells the moment of expiry, older versions only the time left.
local tellsExpiry = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

local counted = 0
for i, key in ipairs(KEYS) do
  local atMs = tellsExpiry and redis.call('PEXPIRETIME', key) or nowMs + redis.call('PTTL', key)
  -- Where the end is told as time left, the two clocks that Redis has may be a ms apart.
  if math.abs(atMs - ARGV[2 * i - 1]) <= 1 then
    local reply = redis.pcall('INCRBY', key, ARGV[2 * i])
    if type(reply) == 'number' then counted = counted + 1 end
  end
end
return counted
