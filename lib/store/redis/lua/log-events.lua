-- Records events, and counts how often each address was limited in the events
-- that are kept; atomic. It reads an event's address and count from fields of
-- their own: the JSON of an event contains texts that clients have sent.
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

-- A foreign value at these keys raises an error before anything is written. Then the caller deletes the key and sends
-- this again.
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
-- Not earlier: a stream that takes no more entries raises an error above, is deleted, and this is sent again.
if isReplay then redis.call('SET', KEYS[3], 1, 'PX', ARGV[2]) end

local excess = length + (#ARGV - 3) / 4 - tonumber(ARGV[3])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(excess, 1000))) do
    local fields = entry[2]
    -- A foreign entry was counted for no address; it is only deleted.
    if fields[1] == 'ip' and whole(fields[4]) then count(fields[2], -whole(fields[4])) end
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
