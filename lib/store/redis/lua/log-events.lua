-- Records events, and counts how often each address was limited in those that
-- are kept; atomic. What it needs of an event stands in fields of its own: the
-- text of an event holds what clients have sent.
--
-- KEYS     events, suspects, number of the writer's last batch (see
--          store/keys.ts)
-- ARGV     most events to keep, number of this batch: one that came already is
--          not written again; ms to keep it; then for each event: ip ('' for none, or for
--          one that makes no suspect), count, atMs, the event as JSON
-- returns  nothing
-- cost     O(log n) for each event, and for up to 1,000 old ones that go

local function whole (text)
  local number = string.match(text or '', '^%d+$') and tonumber(text)
  return number and number <= 9007199254740991 and number or nil
end

local function count (ip, by)
  if ip == '' then return end
  local sum = tonumber(redis.call('ZINCRBY', KEYS[2], by, ip))
  -- The score was foreign, not a whole number: the address starts again at 0.
  if sum <= 0 or sum > 9007199254740991 or sum ~= math.floor(sum) then redis.call('ZREM', KEYS[2], ip) end
end

-- A number far ahead, or a value that is no number, is foreign.
local number, last = tonumber(ARGV[2]), whole(redis.call('GET', KEYS[3])) or 0
if last >= number and last < number + 1000000 then return end
-- A foreign value at these keys raises an error before anything is written. Then the key is deleted, and this is sent
-- again under the same number.
redis.call('ZCARD', KEYS[2])
local length = redis.call('XLEN', KEYS[1])

for i = 4, #ARGV, 4 do
  redis.call('XADD', KEYS[1], '*', 'ip', ARGV[i], 'count', ARGV[i + 1], 'atMs', ARGV[i + 2], 'event', ARGV[i + 3])
  count(ARGV[i], ARGV[i + 1])
end
redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])

local excess = length + (#ARGV - 3) / 4 - tonumber(ARGV[1])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(excess, 1000))) do
    local fields = entry[2]
    -- A foreign entry has added to no count; it is deleted as well.
    if fields[1] == 'ip' and whole(fields[4]) then count(fields[2], -whole(fields[4])) end
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
