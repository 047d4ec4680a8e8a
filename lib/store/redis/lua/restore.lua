-- Restores counters of a Redis that has lost all of its data; atomic. Several
-- instances restore one counter, each with the baseline that it knows. The
-- largest baseline counts once, in whatever order they come and however often
-- each is sent; what Redis has counted since the loss stays on top of it.
--
-- KEYS     for each counter: the counter, and its note: the largest baseline that
--          was restored so far. Behind them the key of the epoch
-- ARGV     epoch; then for each counter its limit: algorithm, max, windowMs,
--          burst, excess, longestMs; and its baseline: three whole numbers, the
--          last one a moment in ms from now
-- returns  1
-- error    GUARDLOST: nothing was restored, since Redis has lost its data again
-- cost     up to ten commands for each counter; O(1) each
-- uses     epoch, limit, time

local lost = lostSince(ARGV[1], KEYS[#KEYS])
if lost then return lost end

--@rules
for i = 1, (#KEYS - 1) / 2 do
  local counter, note = KEYS[2 * i - 1], KEYS[2 * i]
  local first = 2 + 9 * (i - 1)
  local limit = limitAt(first)
  local rule = ruleOf(limit.algorithm)
  local baseline = rule.decode(tonumber(ARGV[first + 6]), tonumber(ARGV[first + 7]), tonumber(ARGV[first + 8]), nowMs)
  local restored = {}
  rule.merge(note, limit, baseline, function (noted, field)
    restored[field] = noted
    return math.max(noted, baseline[field])
  end)
  -- A field that the note has not is of a window that is over.
  rule.merge(counter, limit, baseline, function (stored, field)
    return stored + math.max(0, baseline[field] - (restored[field] or baseline[field]))
  end)
end

return 1
