-- Records events, and counts how often each address was limited in those that
-- are kept; atomic. What it needs of an event stands in fields of its own: the
-- text of an event holds what clients have sent.
--
-- KEYS     events, suspects; with a number, where the last one of the instance is
--          kept; else, with ms to keep it, the marker of a replay (see store/keys.ts)
-- ARGV     number of the call, 0 for none; ms to keep the marker, 0 for none; most
--          events to keep; then for each event: ip ('' for none, or for one that
--          makes no suspect), count, atMs, the event as JSON
-- returns  nothing; with a marker that is there already, nothing is done
-- error    GUARDLOST: as in take.lua
-- cost     O(log n) for each event, and for up to 1,000 old ones that go
-- uses     foreign, number, sequence

local function count (ip, by)
  if ip == '' then return end
  local sum = tonumber(redis.call('ZINCRBY', KEYS[2], by, ip))
  -- The score was foreign, not a whole number: the address starts again at 0.
  if sum <= 0 or sum > 9007199254740991 or sum ~= math.floor(sum) then redis.call('ZREM', KEYS[2], ip) end
end

-- A foreign value at these keys raises an error before anything is written. Then the key is deleted, and this is sent
-- again.
redis.call('ZCARD', KEYS[2])
local length = redis.call('XLEN', KEYS[1])

local lost = notNext(KEYS[3], ARGV[1])
if lost then return lost end
local isReplay = ARGV[2] ~= '0'
if isReplay and read('GET', KEYS[3]) == '1' then return end

for i = 4, #ARGV, 4 do
  redis.call('XADD', KEYS[1], '*', 'ip', ARGV[i], 'count', ARGV[i + 1], 'atMs', ARGV[i + 2], 'event', ARGV[i + 3])
  count(ARGV[i], ARGV[i + 1])
end
-- Not before: a stream that takes no more entries is deleted, and this is sent again.
if isReplay then redis.call('SET', KEYS[3], 1, 'PX', ARGV[2]) end

local excess = length + (#ARGV - 3) / 4 - tonumber(ARGV[3])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(excess, 1000))) do
    local fields = entry[2]
    -- A foreign entry has added to no count; it is deleted as well.
    if fields[1] == 'ip' and whole(fields[4]) then count(fields[2], -whole(fields[4])) end
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
