-- Takes back hits that are not to count, from the windows in which they were
-- counted; atomic. The steps are those of `refund` in rules/rate-limit.ts.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter: algorithm
--          (1 fixed-window, 2 sliding-window, 3 gcra), excess (0 none), max,
--          windowMs, cost, used and atMs of the counter as the hit left it, by
--          Redis' clock or one that was compared with it. Whole numbers all.
-- returns  1
-- error    GUARDLOST: as in take.lua
-- cost     two commands for each counter; O(1) each
-- uses     expiry, foreign, sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

local FIXED_WINDOW, SLIDING_WINDOW = 1, 2
local OTHER_CLOCK_MS = 1000

for i = 1, count do
  local key, first = KEYS[i], 7 * i - 5
  local algorithm, excess, max, windowMs = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
  local cost, countedUsed, countedAtMs = tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5]), tonumber(ARGV[first + 6])
  local withinMs = math.min(OTHER_CLOCK_MS, math.floor((windowMs - 1) / 2))
  if algorithm == FIXED_WINDOW then
    local text = read('GET', key)
    local used, previous = string.match(text or '', '^(%d+):(%d+)$')
    used, previous = tonumber(used or text or nil), tonumber(previous or 0)
    if cost > 0 and used ~= nil and used > 0 then
      if math.abs(expiryOf(key) - countedAtMs) <= withinMs and (excess == 0 or previous == 0) then
        used = math.max(0, used - cost)
        redis.call('SET', key, previous > 0 and string.format('%.0f:%.0f', used, previous) or used, 'KEEPTTL')
      end
    end
  else
    local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
    local used, previous, atMs = tonumber(fields[1] or nil), tonumber(fields[2] or nil), tonumber(fields[3] or nil)
    if used ~= nil and previous ~= nil and atMs ~= nil then
      if algorithm ~= SLIDING_WINDOW then
        local left = countedUsed - math.max(0, atMs - countedAtMs) * max
        local added = math.max(0, math.min(left, cost * windowMs))
        -- previous is the max by which the bucket is counted; it may be that of another limit.
        if previous ~= max and previous > 0 and max > 0 then
          added = math.min(math.ceil(added * previous / max), 4503599627370496)
        end
        redis.call('HSET', key, 'used', math.max(0, used - added))
      elseif math.abs(atMs - countedAtMs) <= withinMs then
        redis.call('HSET', key, 'used', math.max(0, used - cost))
      elseif math.abs(atMs - countedAtMs - windowMs) <= withinMs then
        redis.call('HSET', key, 'previous', math.max(0, previous - cost))
      end
    end
  end
end
return 1
