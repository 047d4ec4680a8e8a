-- Adds hits that were refused without asking Redis to their counters; atomic. A
-- window that is over, or another one by now, is left as it is.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter its limit: algorithm,
--          max, windowMs, burst, excess, longestMs; how many to add; and a state of
--          the window: three whole numbers, the last one a moment in ms since 1970
-- returns  how many counters were added to
-- error    GUARDLOST: as in take.lua
-- cost     three commands for each counter; O(1) each
-- uses     limit, sequence, time

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

--@rules
-- A foreign value is left alone.
local counted = 0
for i = 1, count do
  local first = 2 + 10 * (i - 1)
  local limit = limitAt(first)
  local rule = ruleOf(limit.algorithm)
  local window = rule.decode(tonumber(ARGV[first + 7]), tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9]), 0)
  if rule.addRefusals(KEYS[i], limit, tonumber(ARGV[first + 6]), window) then counted = counted + 1 end
end
return counted
