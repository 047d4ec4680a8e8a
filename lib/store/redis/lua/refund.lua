-- Takes back hits that must not count after all, from the windows in which they
-- were counted; atomic. See `refund` in rules/rule.ts.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter its limit: algorithm,
--          max, windowMs, burst, excess, longestMs; cost; and the state as the hit
--          left it: three whole numbers, the last one a moment in ms since 1970,
--          by Redis' clock or one that was compared with it
-- returns  1
-- error    GUARDLOST: as in take.lua
-- cost     two commands for each counter; O(1) each
-- uses     limit, sequence, time

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

--@rules
-- A foreign value is left alone.
for i = 1, count do
  local first = 2 + 10 * (i - 1)
  local limit, cost = limitAt(first), tonumber(ARGV[first + 6])
  local rule = ruleOf(limit.algorithm)
  local counted = rule.decode(tonumber(ARGV[first + 7]), tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9]), 0)
  if cost > 0 then rule.refund(KEYS[i], limit, cost, counted) end
end
return 1
