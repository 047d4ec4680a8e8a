-- Adds hits that were refused without asking Redis to the counters of
-- fixed-windows; atomic. A window that is over, or another one by now, is left
-- as it is.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter: end of the window
--          in ms since 1970, how many to add
-- returns  how many counters were added to
-- error    GUARDLOST: as in take.lua
-- cost     three commands for each counter; O(1) each
-- uses     expiry, foreign, sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

-- A foreign value is left alone.
local function increase (key, by)
  local text = read('GET', key)
  local used, previous = string.match(text or '', '^(%d+):(%d+)$')
  used, previous = tonumber(used or text or nil), tonumber(previous or 0)
  if used == nil or used ~= math.floor(used) or previous + by > 9007199254740991 then return false end
  redis.call('SET', key, string.format('%.0f:%.0f', used, previous + by), 'KEEPTTL')
  return true
end

local counted = 0
for i = 1, count do
  local key = KEYS[i]
  -- Where the end is told as time left, the two clocks that Redis has may be a ms apart.
  if math.abs(expiryOf(key) - ARGV[2 * i]) <= 1 and increase(key, tonumber(ARGV[2 * i + 1])) then
    counted = counted + 1
  end
end
return counted
