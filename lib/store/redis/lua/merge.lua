-- Adds hits that were counted without Redis to its counters; atomic, and once
-- for each marker however often it is sent. See `merge` in rules/rule.ts.
--
-- KEYS     marker, then the counters. Behind them, with an epoch, its key
-- ARGV     ms to keep the marker; epoch, or '' for none; 1 where Redis surely has
--          all baselines, else 0; then for each counter its limit: algorithm, max,
--          windowMs, burst, excess, longestMs; the state of the baseline, and the
--          state that was counted on top of it, each as three whole numbers, the
--          last one a moment in ms from now
-- returns  1; 0 where the marker was there already
-- error    GUARDLOST: nothing was added, since Redis has lost its data
-- cost     up to five commands for each counter; O(1) each
-- uses     epoch, limit, marker, time

local lost = lostSince(ARGV[2], KEYS[#KEYS])
if lost then return lost end
local count = ARGV[2] == '' and #KEYS or #KEYS - 1
if isReplayed(KEYS[1], ARGV[1]) then return 0 end

local hasBaselines = ARGV[3] == '1'

--@rules
local function stateAt (i, rule)
  return rule.decode(tonumber(ARGV[i]), tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), nowMs)
end

for i = 2, count do
  local first = 4 + 12 * (i - 2)
  local limit = limitAt(first)
  local rule = ruleOf(limit.algorithm)
  local baseline, counted = stateAt(first + 6, rule), stateAt(first + 9, rule)
  -- Where Redis has all baselines, a smaller number stands: other instances gave hits back or reset the counter.
  -- Elsewhere the larger one counts.
  rule.merge(KEYS[i], limit, counted, function (stored, field)
    if not hasBaselines then stored = math.max(stored, baseline[field]) end
    return math.max(0, stored + counted[field] - baseline[field])
  end)
end

return 1
