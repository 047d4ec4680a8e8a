-- Blocks and unblocks addresses or ranges, and announces the result to the other
-- instances; atomic. A block never shortens another: the one that ends last
-- stands, with its reason and origin. Blocks that end sooner but began later are
-- kept behind it: an unblock that arrives late leaves them in force.
--
-- KEYS     blocks, expiry, changes, sequence, lifted (see store/keys.ts)
-- ARGV     most changes to keep; until when operations count as done now. Later,
--          they are late and count as of their own time; so do operations that
--          were done without Redis (0). Then for each operation: block, replace
--          or unblock; ip; when it was done; of a block its durationMs ('' for
--          good), reason and origin. All moments are by Redis' clock
-- returns  for each operation: 1 if it was announced, else 0; 1 if a block was in
--          force before, else 0; the block that stands as JSON, or '' for none;
--          last, the number of the last change (0: missing or foreign)
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

-- Remembers an unblock, for late blocks of an instance that could not reach Redis.
local function noteLifted (ip, atMs)
  redis.call('ZADD', KEYS[5], math.max(atMs, liftedAt(ip)), ip)
  redis.call('ZREMRANGEBYRANK', KEYS[5], 0, -maxChanges - 1)
end

-- The blocks that a late unblock leaves: those that began after it.
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
  -- A new list begins at a number that no older list has reached, so that its changes are not taken for that list's.
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

local reply = {}
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
  table.insert(reply, isAnnounced and 1 or 0)
  table.insert(reply, before[1] ~= nil and 1 or 0)
  table.insert(reply, json)
end
table.insert(reply, whole(redis.call('GET', KEYS[4])) or 0)
return reply
