-- Adds what was counted without Redis to the counters here; atomic, and once
-- for each marker however often it is sent. See `merge` in rules/rule.ts.
--
-- KEYS     marker, then the counters
-- ARGV     ms to keep the marker; whether this Redis surely has all that it ever
--          reported (1 or 0); then for each counter its limit: algorithm, max,
--          windowMs, burst, excess, longestMs; the state of the baseline, and the
--          state that was counted on top of it, each as three whole numbers, the
--          last one a moment in ms from now
-- returns  1; 0 where the marker was there already
-- cost     up to five commands for each counter; O(1) each
-- uses     limit, marker, time

if isReplayed(KEYS[1], ARGV[1]) then return 0 end

local isIntact = ARGV[2] == '1'

--@rules
-- A number of the counter here with what was counted on top of the baseline. An intact counter stands: it is lower than
-- the baseline only by what others gave back or reset since. Otherwise the larger of the two counts.
local function merged (here, baseline, counted)
  if not isIntact then here = math.max(here, baseline) end
  return math.max(0, here + counted - baseline)
end

local function stateAt (i, rule)
  return rule.decode(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), nowMs)
end

for i = 2, #KEYS do
  local first = 3 + 12 * (i - 2)
  local limit = limitAt(first)
  local rule = ruleOf(limit.algorithm)
  rule.merge(KEYS[i], limit, stateAt(first + 6, rule), stateAt(first + 9, rule), merged)
end

return 1
