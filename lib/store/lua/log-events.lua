-- Records events, and counts how often each address was limited in those that
-- are kept; atomic.
--
-- KEYS     events, suspects (see store/keys.ts)
-- ARGV     most events to keep, then the events as JSON
-- cost     O(log n) for each event

local function countOf (json, sign)
  local event = cjson.decode(json)
  if event.type == 'limited' and event.ip then
    if tonumber(redis.call('ZINCRBY', KEYS[2], sign * event.count, event.ip)) <= 0 then redis.call('ZREM', KEYS[2], event.ip) end
  end
end

for i = 2, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'event', ARGV[i])
  countOf(ARGV[i], 1)
end
local excess = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[1])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)) do
    countOf(entry[2][2], -1)
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
