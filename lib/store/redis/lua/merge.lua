-- Adds what was counted without Redis to the counters here; atomic, and once
-- for each marker however often it is sent. See rules/merge.ts.
--
-- KEYS     marker, then the counters
-- ARGV     ms to keep the marker; whether this Redis surely has all that it ever
--          reported (1 or 0); then for each counter: algorithm (1 fixed-window,
--          2 sliding-window, 3 gcra), max, windowMs, burst, excess (0 none,
--          1 restart, 2 backoff), longestMs, used and previous of the baseline,
--          used and previous to add, ms from now to atMs. Whole numbers all; with
--          gcra counted by max, and previous is ignored.
-- returns  1; 0 where the marker was there already
-- cost     up to five commands for each counter; O(1) each

local FIXED_WINDOW, SLIDING_WINDOW = 1, 2
local isIntact = ARGV[2] == '1'
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

-- What is no counter of ours goes, as in take.lua.
local function read (key, command, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or reply.err == nil then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.call(command, key, ...) end
  redis.call('DEL', key)
  return false
end

if read(KEYS[1], 'GET') == '1' then return 0 end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[1])

local function whole (text)
  local number = tonumber(text or nil)
  if number == nil or number ~= math.floor(number) or math.abs(number) > 9007199254740991 then return nil end
  return number
end

local function save (key, used, previous, atMs, expiresAtMs)
  redis.call('HSET', key, 'used', used, 'previous', previous, 'atMs', atMs)
  redis.call('PEXPIREAT', key, expiresAtMs)
end

-- The amount in a bucket after some ms, converted from another max to this one: see
-- rules/gcra.ts.
local function levelOf (used, otherMax, elapsedMs, max, windowMs)
  local drained = otherMax > 0 and elapsedMs * otherMax or (elapsedMs >= windowMs and used or 0)
  local left = math.max(0, used - drained)
  if otherMax == max or otherMax == 0 or max == 0 then return left end
  return math.min(math.ceil(left * max / otherMax), 4503599627370496)
end

-- The counter here with what was counted on top of the baseline. An intact counter
-- stands: it is lower than the baseline only by what others gave back or reset since.
-- Otherwise the larger of the two counts.
local function merged (here, baseline, add)
  if not isIntact then here = math.max(here, baseline) end
  return math.max(0, here + add)
end

for i = 0, #KEYS - 2 do
  local key = KEYS[2 + i]
  local numbers = {}
  for n = 1, 11 do numbers[n] = tonumber(ARGV[2 + 11 * i + n]) end
  local algorithm, max, windowMs, burst, excess, longestMs = unpack(numbers, 1, 6)
  local baseline, previousBaseline, add, addPrevious, offsetMs = unpack(numbers, 7)
  local atMs = nowMs + offsetMs
  if algorithm == FIXED_WINDOW then
    -- A window that is over counts no more. One that is still running here keeps its own end.
    if offsetMs > 0 then
      local text = read(key, 'GET')
      local used, previous = string.match(text or '', '^(%d+):(%d+)$')
      used, previous = whole(used or text), whole(previous or 0) or 0
      local leftMs = used and redis.call('PTTL', key) or -2
      -- Its end is left alone: refusals name their window by it, and the clocks of PTTL and TIME are a ms apart.
      used = merged(used or 0, baseline, add)
      previous = merged(previous, previousBaseline, addPrevious)
      redis.call('SET', key, previous > 0 and string.format('%.0f:%.0f', used, previous) or used, 'KEEPTTL')
      if leftMs <= 0 or (excess > 0 and offsetMs > leftMs) then redis.call('PEXPIREAT', key, atMs) end
      if leftMs > longestMs then redis.call('PEXPIREAT', key, nowMs + longestMs) end
    end
  else
    local fields = read(key, 'HMGET', 'used', 'previous', 'atMs') or {}
    local used, previous, startMs = whole(fields[1]) or 0, whole(fields[2]) or 0, math.min(whole(fields[3]) or nowMs, nowMs)
    if algorithm == SLIDING_WINDOW then
      if nowMs - startMs >= windowMs then
        local hasFading = nowMs - startMs < 2 * windowMs and used > 0
        used, previous, startMs = 0, hasFading and used or 0, hasFading and startMs + windowMs or nowMs
      end
      if used + previous == 0 then startMs = atMs end
      -- The two windows may not begin at the same moment; which is which, the nearer beginning says.
      local apart = math.floor((atMs - startMs) / windowMs + 0.5)
      if apart > 0 then used, previous, startMs = 0, used, atMs end
      if apart < 0 then
        previous = merged(previous, baseline, add)
      else
        used = merged(used, baseline, add)
        previous = merged(previous, previousBaseline, addPrevious)
      end
      if used + previous > 0 then save(key, used, previous, startMs, startMs + (used > 0 and 2 or 1) * windowMs) else redis.call('DEL', key) end
    else
      used = levelOf(used, previous, nowMs - startMs, max, windowMs)
      -- Several instances together may have accepted more than fits: then the bucket is full, but not more. The bucket
      -- of another limit of the group may be larger than this one's, and may hold more already.
      local most = math.max(burst * windowMs, used, baseline + add)
      used = math.min(most, merged(used, baseline, add))
      local drainMs = max == 0 and windowMs or math.ceil(used / max)
      if used > 0 then save(key, used, max, nowMs, nowMs + drainMs) else redis.call('DEL', key) end
    end
  end
end

return 1
