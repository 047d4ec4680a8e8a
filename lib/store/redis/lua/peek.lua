-- Reads the counters of a client, and changes nothing.
--
-- KEYS     the counters
-- ARGV     for each its limit: algorithm, max, windowMs, burst, excess, longestMs
-- returns  nowMs, then for each counter its state as stored: three whole numbers,
--          the last one a moment in ms from nowMs; three empty texts where there
--          is none
-- cost     two commands for each counter; O(1) each
-- uses     foreign, limit, time

--@rules
local reply = { nowMs }

-- A foreign value counts as none; the next hit replaces it.
for i, key in ipairs(KEYS) do
  local limit = limitAt(6 * i - 5)
  local rule = ruleOf(limit.algorithm)
  local stored = rule.load(read, key, limit)
  local first, second, offsetMs = '', '', ''
  if stored then first, second, offsetMs = rule.encode(stored, nowMs) end
  reply[#reply + 1] = first
  reply[#reply + 1] = second
  reply[#reply + 1] = offsetMs
end
return reply
