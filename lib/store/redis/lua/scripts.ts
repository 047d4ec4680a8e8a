/** Made of the Lua files beside it by `npm run lua`: change those. */

const parts = {
  expiry: `-- uses     time
-- Redis 7 tells the moment of expiry, older versions only the time left.
local tellsExpiry = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000

-- When a key expires, ms since 1970; below 0 as PTTL has it.
local function expiryOf (key)
  if tellsExpiry then return redis.call('PEXPIRETIME', key) end
  local leftMs = redis.call('PTTL', key)
  return leftMs < 0 and leftMs or nowMs + leftMs
end

`,

  foreign: `-- Runs a command that reads a key. A value of another type is foreign: then it returns false and true. Other errors, such
-- as missing rights, are raised.
local function read (command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or reply.err == nil then return reply, false end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.call(command, key, ...) end
  return false, true
end

`,

  marker: `-- uses     foreign
-- Whether this call has run already; leaves the marker that says so.
local function isReplayed (key, keptMs)
  if read('GET', key) == '1' then return true end
  redis.call('SET', key, 1, 'PX', keptMs)
  return false
end

`,

  number: `-- A whole number from 0 to 2^53 - 1, of its decimal digits; nil for any other text: it is foreign.
local function whole (text)
  local number = string.match(text or '', '^%d+$') and tonumber(text)
  return number and number <= 9007199254740991 and number or nil
end

`,

  sequence: `-- uses     foreign
-- Notes the number of this call where the last one of the instance is kept. '0': the call has none.
--
-- returns  an error to reply where it is not the next one: Redis has lost its data, or a later call has run already. A
--          foreign value in place of the last number counts as lost data
local function notNext (key, number)
  if number == '0' then return nil end
  local last = tonumber(read('GET', key) or nil)
  if last == nil or not (tonumber(number) > last) then
    return redis.error_reply('GUARDLOST call ' .. number .. ' is not the next one')
  end
  redis.call('SET', key, number, 'KEEPTTL')
end

`,

  time: `-- Redis' clock: seconds and microseconds, and ms since 1970.
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

`
}

export const scripts = {
  'block-changes': parts.number + parts.time + `-- What has changed in the block list since a change that the caller knows.
-- Writes nothing, so that it answers on a full Redis, too.
--
-- KEYS     changes, sequence, epoch (see store/keys.ts)
-- ARGV     id of the last known change, most changes to return
-- returns  nowMs, number of the last change (0: missing or foreign), id of the last change, the
--          changes: { id, { field, value ... } }, oldest first, and the epoch
-- cost     O(changes returned)
-- uses     number, time

local sequence = whole(redis.call('GET', KEYS[2])) or 0
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local read = redis.call('XREAD', 'COUNT', ARGV[2], 'STREAMS', KEYS[1], ARGV[1])
return { nowMs, sequence, last and last[1] or '0-0', read and read[1][2] or {}, redis.call('GET', KEYS[3]) or '' }
`,

  'change-blocks': parts.number + parts.time + `-- Blocks and unblocks addresses or ranges, and announces what stands to the
-- other instances; atomic. A block never shortens another: the one that ends
-- last stands, with its reason and origin. Behind it lie those that end sooner
-- but began later: an unblock that arrives late leaves them in force.
--
-- KEYS     blocks, expiry, changes, sequence, lifted (see store/keys.ts)
-- ARGV     most changes to keep; until when operations count as done now: a
--          call that hung longer is late, and so is what was done without
--          Redis (0); then for each operation: block, replace or unblock; ip;
--          when it was, for one that is late; of a block its durationMs (''
--          for good), reason and origin; all moments by Redis' clock
-- returns  for each operation: 1 where it was announced, else 0; 1 where a
--          block was in force before, else 0; the block that stands as JSON,
--          or '' for none; at last the number of the last change (0: missing
--          or foreign)
-- cost     O(log n) for each operation, and up to 100 expired blocks removed
-- uses     number, time

local maxChanges = ARGV[1]
local isLate = nowMs > tonumber(ARGV[2])
local mostKept = 4

local function isMoment (value)
  return type(value) == 'number' and value >= 0 and value <= 9007199254740991 and value % 1 == 0
end

local function isBlock (value)
  return type(value) == 'table' and isMoment(value.blockedAtMs) and type(value.reason) == 'string' and
    type(value.origin) == 'string' and (value.expiresAtMs == nil or isMoment(value.expiresAtMs))
end

local function endOf (block)
  return block.expiresAtMs or math.huge
end

-- Of two that end at the same moment, the earlier one stands.
local function isLonger (a, b)
  return endOf(a) > endOf(b) or (endOf(a) == endOf(b) and a.blockedAtMs < b.blockedAtMs)
end

-- The blocks in force, the longest first. A value that is no block is foreign, and counts as none.
local function parse (text)
  local isJson, first = pcall(cjson.decode, text or '')
  if not isJson or not isBlock(first) then return {} end
  local blocks = {}
  local all = type(first.later) == 'table' and first.later or {}
  table.insert(all, 1, first)
  for _, block in ipairs(all) do
    if isBlock(block) and endOf(block) > nowMs then table.insert(blocks, block) end
  end
  return blocks
end

-- cjson would write long numbers with an exponent, and lose digits.
local function jsonOf (block, later)
  if block == nil then return '' end
  local json = '{"blockedAtMs":' .. string.format('%.0f', block.blockedAtMs)
  if block.expiresAtMs then json = json .. ',"expiresAtMs":' .. string.format('%.0f', block.expiresAtMs) end
  local origin, reason = cjson.encode(block.origin), cjson.encode(block.reason)
  return json .. ',"origin":' .. origin .. ',"reason":' .. reason .. later .. '}'
end

local function textOf (blocks)
  local later = {}
  for i = 2, #blocks do later[i - 1] = jsonOf(blocks[i], '') end
  return jsonOf(blocks[1], #later == 0 and '' or ',"later":[' .. table.concat(later, ',') .. ']')
end

-- A moment in the future is foreign.
local function liftedAt (ip)
  local atMs = tonumber(redis.call('ZSCORE', KEYS[5], ip) or nil)
  return atMs ~= nil and atMs <= nowMs and atMs or 0
end

-- For operations that come late, from an instance that could not reach Redis.
local function noteLifted (ip, atMs)
  redis.call('ZADD', KEYS[5], math.max(atMs, liftedAt(ip)), ip)
  redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -maxChanges - 1)
end

-- What an unblock leaves.
local function after (blocks, atMs)
  local left = {}
  for _, block in ipairs(blocks) do
    if block.blockedAtMs > atMs and block.blockedAtMs <= nowMs then table.insert(left, block) end
  end
  return left
end

local function with (blocks, block)
  for _, other in ipairs(blocks) do
    local isSame = other.blockedAtMs == block.blockedAtMs and endOf(other) == endOf(block)
    if isSame or (other.blockedAtMs >= block.blockedAtMs and isLonger(other, block)) then return blocks end
  end
  local all = {}
  for _, other in ipairs(blocks) do
    if other.blockedAtMs > block.blockedAtMs or isLonger(other, block) then table.insert(all, other) end
  end
  table.insert(all, block)
  table.sort(all, isLonger)
  if #all > mostKept then table.remove(all, 2) end
  return all
end

local function announce (ip, json)
  local sequence = redis.call('INCR', KEYS[4])
  -- A new list begins at a number of its own, so that nobody takes its changes for the next ones of an older list.
  if sequence <= 1 or sequence > 9007199254740991 then
    sequence = time[1] * 1000000 + time[2]
    redis.call('SET', KEYS[4], sequence)
  end
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', maxChanges, '*', 'sequence', sequence, 'ip', ip, 'block', json)
end

local function keep (ip, blocks, text)
  if text == '' then
    redis.call('HDEL', KEYS[1], ip)
    redis.call('ZREM', KEYS[2], ip)
    return
  end
  redis.call('HSET', KEYS[1], ip, text)
  if blocks[1].expiresAtMs then
    redis.call('ZADD', KEYS[2], blocks[1].expiresAtMs, ip)
  else
    redis.call('ZREM', KEYS[2], ip)
  end
end

for _, expired in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', nowMs, 'LIMIT', 0, 100)) do
  redis.call('HDEL', KEYS[1], expired)
  redis.call('ZREM', KEYS[2], expired)
end

local told = {}
for i = 3, #ARGV, 6 do
  local kind, ip, doneAtMs, durationMs, reason, origin = unpack(ARGV, i, i + 5)
  local atMs = isLate and math.min(doneAtMs, nowMs) or nowMs
  local stored = redis.call('HGET', KEYS[1], ip)
  local before = parse(stored)
  local blocks = before

  if kind ~= 'block' then
    noteLifted(ip, atMs)
    blocks = isLate and after(blocks, atMs) or {}
  end
  if kind ~= 'unblock' then
    local expiresAtMs = durationMs ~= '' and atMs + durationMs or nil
    local isOver = expiresAtMs ~= nil and expiresAtMs <= nowMs
    if not isOver and not (isLate and liftedAt(ip) > atMs) then
      blocks = with(blocks, { blockedAtMs = atMs, expiresAtMs = expiresAtMs, reason = reason, origin = origin })
    end
  end

  local text, json = textOf(blocks), jsonOf(blocks[1], '')
  if text ~= (stored or '') then keep(ip, blocks, text) end
  -- A late operation that changes nothing is announced, too: the instance that sends it may believe otherwise.
  local isAnnounced = isLate or json ~= jsonOf(before[1], '')
  if isAnnounced then announce(ip, json) end
  table.insert(told, isAnnounced and 1 or 0)
  table.insert(told, before[1] ~= nil and 1 or 0)
  table.insert(told, json)
end
table.insert(told, whole(redis.call('GET', KEYS[4])) or 0)
return told
`,

  'clear-events': parts.number + parts.time + `-- Removes old events, a page at a time so that Redis is not held, with what
-- they added to the count of their address; atomic per page.
--
-- KEYS     events, suspects (see store/keys.ts)
-- ARGV     age in ms beyond which events go (0: all of them), id of the first event of the page
--          ('-' for the oldest), length of the page, moment from which the age
--          counts ('' for now)
-- returns  number of events removed, id to go on from ('' after the last page), that moment
-- cost     O(page)
-- uses     number, time

local fromMs = tonumber(ARGV[4]) or nowMs
local ageMs = tonumber(ARGV[1])
local beforeMs = ageMs == 0 and math.huge or fromMs - ageMs
local length = tonumber(ARGV[3])
local page = redis.call('XRANGE', KEYS[1], ARGV[2], '+', 'COUNT', length + 1)
local removed = 0
for i = 1, math.min(length, #page) do
  -- ip, count, atMs, event: each behind its name
  local id, fields = page[i][1], page[i][2]
  local count, atMs = whole(fields[4]), whole(fields[6])
  if fields[1] ~= 'ip' or count == nil or atMs == nil then
    -- A foreign entry: its age is in its id.
    if tonumber(string.match(id, '^%d+')) < beforeMs then redis.call('XDEL', KEYS[1], id) end
  elseif atMs < beforeMs then
    redis.call('XDEL', KEYS[1], id)
    removed = removed + 1
    local left = fields[2] ~= '' and tonumber(redis.call('ZINCRBY', KEYS[2], -count, fields[2]))
    if left and left <= 0 then redis.call('ZREM', KEYS[2], fields[2]) end
  end
end
return { removed, page[length + 1] and page[length + 1][1] or '', fromMs }
`,

  'count-refusals': parts.time + parts.expiry + parts.foreign + parts.sequence + `-- Adds hits that were refused without asking Redis to the counters of
-- fixed-windows; atomic. A window that is over, or another one by now, is left
-- as it is.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter: end of the window
--          in ms since 1970, how many to add
-- returns  how many counters were added to
-- error    GUARDLOST: as in take.lua
-- cost     three commands for each counter; O(1) each
-- uses     expiry, foreign, sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

-- A foreign value is left alone.
local function increase (key, by)
  local text = read('GET', key)
  local used, previous = string.match(text or '', '^(%d+):(%d+)$')
  used, previous = tonumber(used or text or nil), tonumber(previous or 0)
  if used == nil or used ~= math.floor(used) or previous + by > 9007199254740991 then return false end
  redis.call('SET', key, string.format('%.0f:%.0f', used, previous + by), 'KEEPTTL')
  return true
end

local counted = 0
for i = 1, count do
  local key = KEYS[i]
  -- Where the end is told as time left, the two clocks that Redis has may be a ms apart.
  if math.abs(expiryOf(key) - ARGV[2 * i]) <= 1 and increase(key, tonumber(ARGV[2 * i + 1])) then
    counted = counted + 1
  end
end
return counted
`,

  fence: parts.foreign + parts.number + `-- Closes the door behind an instance that comes back: of its batches that have
-- not run yet, none will, since from now on only later numbers are taken
-- (take.lua). Asked again because its answer was lost, it tells the same.
--
-- KEYS     number of the instance's last batch, what was told last (see
--          store/keys.ts)
-- ARGV     the number to go on from, ms to keep it
-- returns  the number of the last batch that ran; -1 where it is not known here
-- cost     O(1)
-- uses     foreign, number

-- A value that is no number that can be incremented is foreign: it is replaced below.
local function known (text)
  local number = whole(text)
  return number and number <= 4503599627370496 and text or '-1'
end

local last = known(read('GET', KEYS[1]))
local told, door = string.match(read('GET', KEYS[2]) or '', '^(%S+) (%S+)$')
-- One that was sent long ago, and comes now: the door is not opened again.
if tonumber(last) > tonumber(ARGV[1]) then return tonumber(last) end
-- No batch has run since: the door is not what ran.
if door == last then last = known(told) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], last .. ' ' .. ARGV[1], 'PX', ARGV[2])
return tonumber(last)
`,

  forget: parts.foreign + parts.sequence + `-- Deletes counters of one client; atomic.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none
-- returns  how many counters there were
-- error    GUARDLOST: as in take.lua
-- cost     O(1) for each counter
-- uses     sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1
return redis.call('DEL', unpack(KEYS, 1, count))
`,

  heartbeat: parts.time + `-- Tells how many instances are alive, and whether this is still the Redis that
-- it was: data that is lost takes the epoch with it. Of an instance that has
-- told what it kept in an outage, says that it is among them.
--
-- KEYS     instances, epoch (see store/keys.ts)
-- ARGV     id of the instance, 1 where it has told all, else 0; ms without a
--          heartbeat after which one counts as gone; the epoch to begin where
--          there is none; a moment by the clock here, ms since 1970
-- returns  epoch; number of instances, this one among them; how many of them
--          have had a heartbeat since that moment; ms since 1970
-- cost     O(log n)
-- uses     time

if ARGV[2] == '1' then redis.call('ZADD', KEYS[1], nowMs, ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs - ARGV[3])
-- A heartbeat in the future is foreign.
redis.call('ZREMRANGEBYSCORE', KEYS[1], nowMs + ARGV[3], '+inf')
redis.call('SET', KEYS[2], ARGV[4], 'NX')
local isThere = redis.call('ZSCORE', KEYS[1], ARGV[1])
return { redis.call('GET', KEYS[2]), redis.call('ZCARD', KEYS[1]) + (isThere and 0 or 1), redis.call('ZCOUNT', KEYS[1], ARGV[5], '+inf'), nowMs }
`,

  'log-events': `-- Records events, and counts how often each address was limited in those that
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

local number, markerMs = tonumber(ARGV[1]), tonumber(ARGV[2])

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

if number > 0 or markerMs > 0 then
  local text = redis.pcall('GET', KEYS[3])
  -- A foreign value is no number and no marker. Missing rights to read it are an error.
  if type(text) == 'table' and not string.find(text.err, 'WRONGTYPE', 1, true) then return text end
  if number > 0 then
    local last = type(text) == 'string' and whole(text) or nil
    if last == nil or number <= last then return redis.error_reply('GUARDLOST call ' .. ARGV[1] .. ' is not the next one') end
  elseif text == '1' then
    return
  end
end

-- A foreign value at these keys raises an error before anything is written. Then the key is deleted, and this is sent
-- again.
redis.call('ZCARD', KEYS[2])
local length = redis.call('XLEN', KEYS[1])

for i = 4, #ARGV, 4 do
  redis.call('XADD', KEYS[1], '*', 'ip', ARGV[i], 'count', ARGV[i + 1], 'atMs', ARGV[i + 2], 'event', ARGV[i + 3])
  count(ARGV[i], ARGV[i + 1])
end
-- Only now: a stream that takes no more entries is deleted as well.
if number > 0 then
  redis.call('SET', KEYS[3], ARGV[1], 'KEEPTTL')
elseif markerMs > 0 then
  redis.call('SET', KEYS[3], 1, 'PX', ARGV[2])
end

local excess = length + (#ARGV - 3) / 4 - tonumber(ARGV[3])
if excess > 0 then
  for _, entry in ipairs(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', math.min(excess, 1000))) do
    local fields = entry[2]
    -- A foreign entry has added to no count; it is deleted as well.
    if fields[1] == 'ip' and whole(fields[4]) then count(fields[2], -whole(fields[4])) end
    redis.call('XDEL', KEYS[1], entry[1])
  end
end
`,

  mend: parts.number + `-- Deletes the guard's own keys whose values it cannot use: another program has
-- written them.
--
-- KEYS     keys of one slot
-- ARGV     for each key its type: hash, zset, stream, number or text
-- returns  for each key 1 if it was deleted, else 0
-- cost     up to three commands for each; O(1) each, and O(n) to delete a key
-- uses     number

-- Other errors, such as missing rights or memory, say nothing about the value.
local function isForeign (reply)
  if type(reply) ~= 'table' or reply.err == nil then return false end
  for _, words in ipairs({ 'WRONGTYPE', 'exhausted the last possible ID', 'equal or smaller than the target' }) do
    if string.find(reply.err, words, 1, true) then return true end
  end
  return false
end

local function mustGo (key, wanted)
  if wanted == 'hash' then return isForeign(redis.pcall('HLEN', key)) end
  if wanted == 'zset' then return isForeign(redis.pcall('ZCARD', key)) end
  if wanted == 'stream' then
    local id = redis.pcall('XADD', key, '*', 'probe', '')
    if type(id) ~= 'table' then redis.call('XDEL', key, id) end
    return isForeign(id)
  end
  local text = redis.pcall('GET', key)
  if wanted == 'text' or type(text) ~= 'string' then return isForeign(text) end
  return whole(text) == nil
end

local emptied = {}
for i, key in ipairs(KEYS) do
  emptied[i] = mustGo(key, ARGV[i]) and redis.call('DEL', key) or 0
end
return emptied
`,

  merge: `-- Adds what was counted without Redis to the counters here; atomic, and once
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
`,

  'merge-values': parts.foreign + parts.marker + parts.time + `-- Does to values what was done without Redis, save where another instance has
-- set or deleted one later; atomic, and once for each marker however often it
-- is sent.
--
-- KEYS     marker, then for each: value, its note (see store/keys.ts)
-- ARGV     ms to keep the marker and the notes, id of the instance, then for
--          each: 'set', 'del' or '', the text of set, how many ms ago; how much
--          to add afterwards, and how many ms ago that was; 1 where it is given
--          an end, else 0, ms to it, and how many ms ago that was said
-- returns  1; 0 where the marker was there already
-- cost     up to six commands for each; O(1) each
-- uses     foreign, marker, time

if isReplayed(KEYS[1], ARGV[1]) then return 0 end

local keptMs, instance = ARGV[1], ARGV[2]
-- To what is no number that can be counted with, nothing is added; that the user
-- may not, or that there is no memory, is an error as everywhere.
local function increase (key, by)
  local reply = redis.pcall('INCRBY', key, by)
  if type(reply) == 'number' then return true end
  for _, reason in ipairs({ 'WRONGTYPE', 'not an integer', 'overflow' }) do
    if string.find(reply.err, reason, 1, true) then return false end
  end
  return redis.call('INCRBY', key, by)
end

for i = 0, (#KEYS - 1) / 2 - 1 do
  local key, note = KEYS[2 + 2 * i], KEYS[3 + 2 * i]
  local base, text, baseAgoMs, add, addAgoMs, ends, leftMs, endAgoMs = unpack(ARGV, 3 + 8 * i, 10 + 8 * i)
  local writtenAtMs, writer = string.match(read('GET', note) or '', '^(%d+) (.*)$')
  -- A moment in the future is foreign.
  if writtenAtMs ~= nil and tonumber(writtenAtMs) > nowMs then writtenAtMs = nil end

  -- What this instance did itself came before: it sends in order.
  local function stands (agoMs)
    return writtenAtMs == nil or writer == instance or tonumber(writtenAtMs) <= nowMs - agoMs
  end

  if base ~= '' and stands(baseAgoMs) then
    if base == 'set' then redis.call('SET', key, text) else redis.call('DEL', key) end
    redis.call('SET', note, string.format('%.0f', nowMs - baseAgoMs) .. ' ' .. instance, 'PX', keptMs)
  end
  if add ~= '0' and stands(addAgoMs) then increase(key, add) end
  if ends == '1' and stands(endAgoMs) then redis.call('PEXPIRE', key, leftMs) end
end

return 1
`,

  peek: parts.foreign + parts.time + `-- Reads the counters of a client, and changes nothing.
--
-- KEYS     the counters
-- ARGV     for each its algorithm: 1 fixed-window, 2 sliding-window, 3 gcra
-- returns  nowMs, then for each counter used, previous and ms from nowMs to
--          atMs; all of them empty texts where there is none
-- cost     two commands for each counter; O(1) each
-- uses     foreign, time

local reply = { nowMs }

local function add (used, previous, offsetMs)
  if tonumber(used or nil) == nil or tonumber(offsetMs or nil) == nil then used, previous, offsetMs = '', '', '' end
  reply[#reply + 1] = used
  reply[#reply + 1] = previous
  reply[#reply + 1] = offsetMs
end

-- A foreign value counts as none; it is replaced when somebody is counted there.
for i, key in ipairs(KEYS) do
  if ARGV[i] == '1' then
    local text = read('GET', key)
    local used, previous = string.match(text or '', '^(%d+):(%d+)$')
    local leftMs = redis.call('PTTL', key)
    add(used or text, previous or 0, leftMs >= 0 and leftMs)
  else
    local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
    local atMs = tonumber(fields[3] or nil)
    add(fields[1], fields[2], atMs and atMs - nowMs)
  end
end
return reply
`,

  refund: parts.time + parts.expiry + parts.foreign + parts.sequence + `-- Takes back hits that are not to count, from the windows in which they were
-- counted; atomic. The steps are those of \`refund\` in rules/rate-limit.ts.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter: algorithm
--          (1 fixed-window, 2 sliding-window, 3 gcra), excess (0 none), max,
--          windowMs, cost, used and atMs of the counter as the hit left it, by
--          Redis' clock or one that was compared with it. Whole numbers all.
-- returns  1
-- error    GUARDLOST: as in take.lua
-- cost     two commands for each counter; O(1) each
-- uses     expiry, foreign, sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

local FIXED_WINDOW, SLIDING_WINDOW = 1, 2
local OTHER_CLOCK_MS = 1000

for i = 1, count do
  local key, first = KEYS[i], 7 * i - 5
  local algorithm, excess, max, windowMs = tonumber(ARGV[first]), tonumber(ARGV[first + 1]), tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3])
  local cost, countedUsed, countedAtMs = tonumber(ARGV[first + 4]), tonumber(ARGV[first + 5]), tonumber(ARGV[first + 6])
  local withinMs = math.min(OTHER_CLOCK_MS, math.floor((windowMs - 1) / 2))
  if algorithm == FIXED_WINDOW then
    local text = read('GET', key)
    local used, previous = string.match(text or '', '^(%d+):(%d+)$')
    used, previous = tonumber(used or text or nil), tonumber(previous or 0)
    if cost > 0 and used ~= nil and used > 0 then
      if math.abs(expiryOf(key) - countedAtMs) <= withinMs and (excess == 0 or previous == 0) then
        used = math.max(0, used - cost)
        redis.call('SET', key, previous > 0 and string.format('%.0f:%.0f', used, previous) or used, 'KEEPTTL')
      end
    end
  else
    local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
    local used, previous, atMs = tonumber(fields[1] or nil), tonumber(fields[2] or nil), tonumber(fields[3] or nil)
    if used ~= nil and previous ~= nil and atMs ~= nil then
      if algorithm ~= SLIDING_WINDOW then
        local left = countedUsed - math.max(0, atMs - countedAtMs) * max
        local added = math.max(0, math.min(left, cost * windowMs))
        -- previous is the max by which the bucket is counted; it may be that of another limit.
        if previous ~= max and previous > 0 and max > 0 then
          added = math.min(math.ceil(added * previous / max), 4503599627370496)
        end
        redis.call('HSET', key, 'used', math.max(0, used - added))
      elseif math.abs(atMs - countedAtMs) <= withinMs then
        redis.call('HSET', key, 'used', math.max(0, used - cost))
      elseif math.abs(atMs - countedAtMs - windowMs) <= withinMs then
        redis.call('HSET', key, 'previous', math.max(0, previous - cost))
      end
    end
  end
end
return 1
`,

  take: parts.time + parts.expiry + parts.foreign + parts.sequence + `-- Counts a batch of hits against their limits; atomic.
-- The steps are those of rules/rate-limit.ts, in its order and with its names;
-- test/store/parity.sized.test.ts compares the two.
--
-- KEYS     for each hit, the counter of each of its checks; a counter may come
--          again, and is then as the hits before have left it. Behind them, with
--          a number, where the last one of the instance is kept
-- ARGV     number of the batch, 0 for none; number of shapes, the shapes, and runs of hits of one shape in the
--          order of KEYS. A shape: number of checks, then for each: algorithm
--          (1 fixed-window, 2 sliding-window, 3 gcra), max, windowMs, burst,
--          excess (0 none, 1 restart, 2 backoff), longestMs, cost, shadow (0 or
--          1). A run: number of the shape, number of hits. Whole numbers all.
-- returns  nowMs, then for each check of each hit the state after the decision:
--          used, or -1 - used where the check refuses; ms from nowMs to atMs,
--          with a fixed-window in a list with previous unless that is 0; and with
--          a sliding-window previous. With gcra previous is the max of the check.
--          Last the number of the batch, if it has one. Whole numbers all.
-- error    GUARDLOST: nothing was counted, since a later batch has run already,
--          or Redis has lost its data
-- cost     two commands for each hit of cost 1 that a fixed-window lets pass, else
--          for each counter one if it is only read, up to five if it changes;
--          O(1) each
-- uses     expiry, sequence, time
--
-- Stored: fixed-window as a plain number whose expiry is the end of its window,
-- or as "used:previous" once there are refusals; the others as hashes with the
-- state's names.

-- Locals are read faster than globals.
local KEYS, ARGV, call, pcall, type = KEYS, ARGV, redis.call, redis.pcall, type
local FIXED_WINDOW, SLIDING_WINDOW, GCRA = 1, 2, 3
local NONE, BACKOFF = 0, 2

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end

local states = {}    -- by key: the state as the hits before left it; false: none
local unsaved = {}   -- by key: the limit to save by
local reply, length = { nowMs }, 1

local function answer (check, fit, used, previous, atMs)
  reply[length + 1] = fit and used or -1 - used
  reply[length + 2] = atMs - nowMs
  if check.algorithm == FIXED_WINDOW and previous > 0 then reply[length + 2] = { atMs - nowMs, previous } end
  length = length + 2
  if check.algorithm == SLIDING_WINDOW then
    length = length + 1
    reply[length] = previous
  end
end

-- Makes the two functions that decide any hit, and save what was decided.
-- Called when the first hit needs them: Lua builds all of these functions anew
-- in each call, which costs as much as counting ten usual hits.
local function general ()
  -- A key of another type is none of ours: it goes, and counting begins anew.
  local function claim (command, key, ...)
    local reply, isForeign = read(command, key, ...)
    if isForeign then call('DEL', key) end
    return reply
  end

  -- What is no whole number that can be counted with is somebody else's.
  local function whole (text)
    local number = tonumber(text or nil)
    if number == nil or number ~= math.floor(number) or math.abs(number) > 9007199254740991 then return nil end
    return number
  end

  -- State as stored, or nil; and whether the key has lost its expiry: then it is given one, as if its window began now.
  local function load (key, check)
    if check.algorithm == FIXED_WINDOW then
      local text = claim('GET', key)
      local used, previous = string.match(text or '', '^(%d+):(%d+)$')
      used, previous = whole(used or text), whole(previous or 0)
      if used == nil or previous == nil then return nil, false end
      local atMs = expiryOf(key)
      if atMs == -1 then return { used = used, previous = previous, atMs = nowMs + check.windowMs }, true end
      return { used = used, previous = previous, atMs = atMs }, false
    end
    local fields = claim('HMGET', key, 'used', 'previous', 'atMs') or {}
    local used, previous, atMs = whole(fields[1]), whole(fields[2]), whole(fields[3])
    if used == nil or previous == nil or atMs == nil then return nil, false end
    return { used = used, previous = previous, atMs = atMs }, call('PTTL', key) == -1
  end

  local function drainMs (amount, max, limit)
    if max == 0 then return limit.windowMs end
    return math.ceil(amount / max)
  end

  local function drained (stored, elapsedMs, limit)
    if stored.previous > 0 then return elapsedMs * stored.previous end
    return elapsedMs >= limit.windowMs and stored.used or 0
  end

  local function countedBy (max, otherMax, amount)
    if max == otherMax or max == 0 or otherMax == 0 then return amount end
    return math.min(math.ceil(amount * max / otherMax), 4503599627370496)
  end

  local function endMs (state, limit)
    if limit.excess ~= BACKOFF or state.previous == 0 then return nowMs + limit.windowMs end
    return nowMs + math.min(limit.windowMs * 2 ^ math.min(state.previous - 1, 53), limit.longestMs)
  end

  local function repaired (stored, limit)
    if limit.algorithm == FIXED_WINDOW then return stored.atMs > endMs(stored, limit) end
    return stored.atMs > nowMs
  end

  local function current (stored, limit)
    local windowMs = limit.windowMs
    if limit.algorithm == FIXED_WINDOW then
      if stored == nil or nowMs >= stored.atMs then return { used = 0, previous = 0, atMs = nowMs + windowMs } end
      if repaired(stored, limit) then return { used = stored.used, previous = stored.previous, atMs = endMs(stored, limit) } end
      return stored
    end
    if limit.algorithm == SLIDING_WINDOW then
      if stored == nil then return { used = 0, previous = 0, atMs = nowMs } end
      if repaired(stored, limit) then return { used = stored.used, previous = stored.previous, atMs = nowMs } end
      local elapsedMs = nowMs - stored.atMs
      if elapsedMs < windowMs then return stored end
      if elapsedMs < 2 * windowMs and stored.used > 0 then
        return { used = 0, previous = stored.used, atMs = stored.atMs + windowMs }
      end
      return { used = 0, previous = 0, atMs = nowMs }
    end
    if stored == nil then return { used = 0, previous = limit.max, atMs = nowMs } end
    local elapsedMs = repaired(stored, limit) and 0 or nowMs - stored.atMs
    local left = math.max(0, stored.used - drained(stored, elapsedMs, limit))
    return { used = countedBy(limit.max, stored.previous, left), previous = limit.max, atMs = nowMs }
  end

  local function fits (state, limit, cost)
    if cost == 0 then return true end
    local windowMs = limit.windowMs
    if limit.algorithm == FIXED_WINDOW then return state.used + cost <= limit.max end
    if limit.algorithm == SLIDING_WINDOW then
      local fading = state.previous * (windowMs - (nowMs - state.atMs))
      return fading + (state.used + cost) * windowMs <= limit.max * windowMs
    end
    return state.used + cost * windowMs <= limit.burst * windowMs
  end

  local function accept (state, limit, cost)
    local amount = limit.algorithm == GCRA and cost * limit.windowMs or cost
    return { used = state.used + amount, previous = state.previous, atMs = state.atMs }
  end

  local function refuse (state, limit)
    if limit.algorithm ~= FIXED_WINDOW then return state end
    local refused = { used = state.used, previous = state.previous + 1, atMs = state.atMs }
    if limit.excess ~= NONE then refused.atMs = endMs(refused, limit) end
    return refused
  end

  local function expiresAtMs (state, limit)
    if limit.algorithm == FIXED_WINDOW then return state.atMs end
    if limit.algorithm == GCRA then return state.atMs + drainMs(state.used, state.previous, limit) end
    if state.used > 0 then return state.atMs + 2 * limit.windowMs end
    if state.previous > 0 then return state.atMs + limit.windowMs end
    return state.atMs
  end

  -- Numbers go to call as they are: tostring would drop digits of long ones.
  local function save (key, state, limit)
    if limit.algorithm == FIXED_WINDOW then
      call('SET', key, state.previous > 0 and string.format('%.0f:%.0f', state.used, state.previous) or state.used)
    else
      call('HSET', key, 'used', state.used, 'previous', state.previous, 'atMs', state.atMs)
    end
    call('PEXPIREAT', key, expiresAtMs(state, limit))
  end

  local lostExpiry = {}

  -- One hit, against the checks of its shape; its keys begin behind \`before\`.
  local function decide (shape, before)
    local decisions = {}
    local accepted = true
    for i, check in ipairs(shape) do
      local key = KEYS[before + i]
      if states[key] == nil then
        local stored, lost = load(key, check)
        states[key], lostExpiry[key] = stored or false, lost
      end
      local stored = states[key] or nil
      local state = current(stored, check)
      local fit = fits(state, check, check.cost)
      decisions[i] = { state = state, fits = fit, repaired = lostExpiry[key] or (stored ~= nil and repaired(stored, check)) }
      accepted = accepted and (fit or check.shadow)
    end
    for i, check in ipairs(shape) do
      local key = KEYS[before + i]
      local decision = decisions[i]
      local state, changed = decision.state, decision.repaired
      if not decision.fits then
        state = refuse(decision.state, check)
        changed = changed or state ~= decision.state
      elseif accepted and check.cost > 0 then
        state, changed = accept(state, check, check.cost), true
      end
      if changed then
        states[key], unsaved[key], lostExpiry[key] = state, check, false
      end
      answer(check, decision.fits, state.used, state.previous, state.atMs)
    end
  end

  local function saveAll ()
    for key, check in pairs(unsaved) do
      save(key, states[key], check)
    end
  end

  return decide, saveAll
end

local at = 3
local shapes = {}
for number = 1, tonumber(ARGV[2]) do
  local shape = {}
  for i = 1, tonumber(ARGV[at]) do
    local first = at + 1 + 8 * (i - 1)
    shape[i] = {
      algorithm = tonumber(ARGV[first]), max = tonumber(ARGV[first + 1]), windowMs = tonumber(ARGV[first + 2]),
      burst = tonumber(ARGV[first + 3]), excess = tonumber(ARGV[first + 4]), longestMs = tonumber(ARGV[first + 5]),
      cost = tonumber(ARGV[first + 6]), shadow = ARGV[first + 7] == '1'
    }
  end
  at = at + 1 + 8 * #shape
  shapes[number] = shape
end

local decide, saveAll
local before = 0
while at <= #ARGV do
  local shape = shapes[tonumber(ARGV[at])]
  local check = shape[1]
  local max, windowMs = check.max, check.windowMs
  local adds = #shape == 1 and check.algorithm == FIXED_WINDOW and check.excess == NONE and check.cost == 1
  for _ = 1, tonumber(ARGV[at + 1]) do
    local key = KEYS[before + 1]
    -- A hit of cost 1 at a fixed-window that has refused nothing adds 1, so
    -- nothing has to be read first, nor kept. Most services run almost nothing
    -- else, so it is no function: its call would cost too much.
    local used = adds and states[key] == nil and pcall('INCR', key)
    if type(used) == 'number' and used <= 9007199254740991 then
      local atMs = used > 1 and (tellsExpiry and call('PEXPIRETIME', key) or expiryOf(key)) or nowMs
      local leftMs = atMs - nowMs
      if leftMs <= 0 or leftMs > windowMs then
        -- A new window; or one that begins anew, since its end was lost or lies too far ahead.
        if leftMs <= 0 and atMs ~= -1 then
          if used > 1 then call('SET', key, 1) end
          used = 1
        end
        leftMs = windowMs
        call('PEXPIREAT', key, nowMs + windowMs)
      end
      if used <= max then
        reply[length + 1], reply[length + 2] = used, leftMs
      else
        -- The hit did not pass. The next one finds no plain number, and is decided below.
        call('SET', key, string.format('%.0f:1', used - 1), 'KEEPTTL')
        reply[length + 1], reply[length + 2] = -used, { leftMs, 1 }
      end
      length = length + 2
    else
      if decide == nil then decide, saveAll = general() end
      decide(shape, before)
    end
    before = before + #shape
  end
  at = at + 2
end

if saveAll ~= nil then saveAll() end

if ARGV[1] ~= '0' then reply[length + 1] = tonumber(ARGV[1]) end
return reply
`,

  value: parts.foreign + parts.sequence + parts.time + `-- Does one thing to a value, and notes who set or deleted it when; atomic.
--
-- KEYS     value, its note; with a number, where the last one of the instance
--          is kept (see store/keys.ts)
-- ARGV     number of the call, 0 for none; id of the instance, ms to keep the
--          note; set, incr, expire or del; of set the text, and ms to live or ''
--          for good; of expire ms to live
-- returns  set: 1; incr: the sum as a text, ms to live as PTTL has it; expire
--          and del: 1 where there was such a key, else 0
-- error    GUARDLOST: as in take.lua; or that INCR rejects the value
-- cost     up to four commands; O(1) each
-- uses     sequence, time

local lost = notNext(KEYS[3], ARGV[1])
if lost then return lost end

local operation = ARGV[4]
if operation == 'incr' then
  -- As a text: Lua's numbers have 53 bits. As pcall: an error of call is put into words of Lua's own.
  local sum = redis.pcall('INCR', KEYS[1])
  if type(sum) == 'table' then return sum end
  return { redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) }
end
if operation == 'expire' then return redis.call('PEXPIRE', KEYS[1], ARGV[5]) end

redis.call('SET', KEYS[2], string.format('%.0f', nowMs) .. ' ' .. ARGV[2], 'PX', ARGV[3])
if operation == 'del' then return redis.call('DEL', KEYS[1]) end
if ARGV[6] == '' then redis.call('SET', KEYS[1], ARGV[5]) else redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6]) end
return 1
`
}
