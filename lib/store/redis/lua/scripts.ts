/** Made of the Lua files beside it by `npm run lua`: change those. */

const parts = {
  claim: `-- uses     foreign
-- Like \`read\`, and deletes a foreign value, so that the key can be written.
local function claim (command, key, ...)
  local reply, isForeign = read(command, key, ...)
  if isForeign then redis.call('DEL', key) end
  return reply
end

`,

  epoch: `-- uses     foreign
-- An error to reply where this Redis has lost its data since it reported \`epoch\`; nil otherwise. '': nobody knows, as in
-- a Cluster.
local function lostSince (epoch, key)
  if epoch == '' or read('GET', key) == epoch then return nil end
  return redis.error_reply('GUARDLOST the epoch is another one')
end

`,

  expiry: `-- uses     time
-- Redis 7 has PEXPIRETIME; older versions only have PTTL, the time left.
local hasExpireTime = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000

-- When a key expires, ms since 1970; below 0 as PTTL has it.
local function expiryOf (key)
  if hasExpireTime then return redis.call('PEXPIRETIME', key) end
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

  limit: `-- A limit takes six arguments: algorithm, max, windowMs, burst, excess, longestMs.
local function limitAt (i)
  return {
    algorithm = ARGV[i], max = tonumber(ARGV[i + 1]), windowMs = tonumber(ARGV[i + 2]), burst = tonumber(ARGV[i + 3]),
    excess = ARGV[i + 4], longestMs = tonumber(ARGV[i + 5])
  }
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

  moment: `-- ms by which one moment of a limit may differ on two clocks: rules/rule.ts.
local function sameMomentMs (limit)
  return math.min(1000, math.floor((limit.windowMs - 1) / 2))
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

`,

  rules: `local RULES = {}
RULES['fixed-window'] = function ()
-- One window per key: rules/fixed-window.ts, whose steps and names these are.
--
-- State    used, refused, endsAtMs
-- Stored   a plain number, \`used\`; or \`used:refused\` once there are refusals. The key expires at the end of the window
-- uses     claim, expiry, moment, number

-- By \`read\` or \`claim\`. Returns the state as stored, or nil; and whether the key has lost its expiry: then it counts as
-- if its window began now.
local function load (reader, key, limit)
  local text = reader('GET', key)
  local used, refused = string.match(text or '', '^(%d+):(%d+)$')
  used, refused = whole(used or text), whole(refused or '0')
  if used == nil or refused == nil then return nil, false end
  local endsAtMs = expiryOf(key)
  if endsAtMs == -1 then return { used = used, refused = refused, endsAtMs = nowMs + limit.windowMs }, true end
  return { used = used, refused = refused, endsAtMs = endsAtMs }, false
end

-- Leaves the expiry alone.
local function write (key, used, refused)
  redis.call('SET', key, refused > 0 and string.format('%.0f:%.0f', used, refused) or used, 'KEEPTTL')
end

-- Where a window ends of which a state came about now, ms since 1970.
local function endMs (state, limit)
  if limit.excess ~= 'backoff' or state.refused == 0 then return nowMs + limit.windowMs end
  return nowMs + math.min(limit.windowMs * 2 ^ math.min(state.refused - 1, 53), limit.longestMs)
end

return {
  load = load,

  -- Numbers go to Redis as they are: tostring would drop digits of long ones.
  save = function (key, state)
    write(key, state.used, state.refused)
    redis.call('PEXPIREAT', key, state.endsAtMs)
  end,

  current = function (stored, limit)
    if stored == nil or nowMs >= stored.endsAtMs then
      return { used = 0, refused = 0, endsAtMs = nowMs + limit.windowMs }
    end
    local latestMs = endMs(stored, limit)
    if stored.endsAtMs <= latestMs then return stored end
    return { used = stored.used, refused = stored.refused, endsAtMs = latestMs }
  end,

  isRepaired = function (stored, state)
    return stored.endsAtMs > state.endsAtMs
  end,

  fits = function (state, limit, cost)
    return state.used + cost <= limit.max
  end,

  accepted = function (state, _, cost)
    return { used = state.used + cost, refused = state.refused, endsAtMs = state.endsAtMs }
  end,

  refused = function (state, limit)
    local refused = { used = state.used, refused = state.refused + 1, endsAtMs = state.endsAtMs }
    if limit.excess ~= 'none' then refused.endsAtMs = endMs(refused, limit) end
    return refused
  end,

  encode = function (state, atMs)
    return state.used, state.refused, state.endsAtMs - atMs
  end,

  decode = function (used, refused, offsetMs, atMs)
    return { used = used, refused = refused, endsAtMs = atMs + offsetMs }
  end,

  -- If refusals restart the window, they lock it until it ends.
  refund = function (key, limit, cost, counted)
    local stored = load(read, key, limit)
    if stored == nil or stored.used == 0 or (limit.excess ~= 'none' and stored.refused > 0) then return end
    if math.abs(stored.endsAtMs - counted.endsAtMs) > sameMomentMs(limit) then return end
    write(key, math.max(0, stored.used - cost), stored.refused)
  end,

  -- Returns whether the window was still there. On Redis before 7 the clocks of PTTL and TIME may be a ms apart.
  addRefusals = function (key, limit, refusals, counted)
    local stored, hasLostExpiry = load(read, key, limit)
    if stored == nil or hasLostExpiry or math.abs(stored.endsAtMs - counted.endsAtMs) > 1 then return false end
    if stored.refused + refusals > 9007199254740991 then return false end
    write(key, stored.used, stored.refused + refusals)
    return true
  end,

  -- \`merged\` gets a number of the stored state and the field of \`counted\` to merge it with, and returns the number to
  -- store. A window of \`counted\` that is over counts no more. A stored window that still runs keeps its own end: refusals
  -- name their window by it.
  merge = function (key, limit, counted, merged)
    if counted.endsAtMs <= nowMs then return end
    local found, hasLostExpiry = load(claim, key, limit)
    local stored = found or { used = 0, refused = 0, endsAtMs = nowMs }
    write(key, merged(stored.used, 'used'), merged(stored.refused, 'refused'))
    local isOver = hasLostExpiry or stored.endsAtMs <= nowMs
    if isOver or (limit.excess ~= 'none' and counted.endsAtMs > stored.endsAtMs) then
      redis.call('PEXPIREAT', key, counted.endsAtMs)
    end
    if stored.endsAtMs > nowMs + limit.longestMs then redis.call('PEXPIREAT', key, nowMs + limit.longestMs) end
  end
}
end
RULES['gcra'] = function ()
-- A bucket that drains evenly: rules/gcra.ts, whose steps and names these are.
--
-- State    level, max, atMs
-- Stored   a hash with these fields
-- uses     claim, number

-- By \`read\` or \`claim\`. Returns the state as stored, or nil; and whether the key has lost its expiry.
local function load (reader, key)
  local fields = reader('HMGET', key, 'level', 'max', 'atMs') or {}
  local level, max, atMs = whole(fields[1]), whole(fields[2]), whole(fields[3])
  if level == nil or max == nil or atMs == nil then return nil, false end
  return { level = level, max = max, atMs = atMs }, redis.call('PTTL', key) == -1
end

local function save (key, state, limit)
  redis.call('HSET', key, 'level', state.level, 'max', state.max, 'atMs', state.atMs)
  local drainMs = state.max == 0 and limit.windowMs or math.ceil(state.level / state.max)
  redis.call('PEXPIREAT', key, state.atMs + drainMs)
end

local function drained (stored, elapsedMs, limit)
  if stored.max > 0 then return elapsedMs * stored.max end
  return elapsedMs >= limit.windowMs and stored.level or 0
end

local function countedBy (max, otherMax, amount)
  if max == otherMax or max == 0 or otherMax == 0 then return amount end
  return math.min(math.ceil(amount * max / otherMax), 4503599627370496)
end

local function current (stored, limit)
  if stored == nil then return { level = 0, max = limit.max, atMs = nowMs } end
  local left = math.max(0, stored.level - drained(stored, math.max(0, nowMs - stored.atMs), limit))
  return { level = countedBy(limit.max, stored.max, left), max = limit.max, atMs = nowMs }
end

return {
  load = load,
  save = save,
  current = current,

  isRepaired = function (stored, state)
    return stored.atMs > state.atMs
  end,

  fits = function (state, limit, cost)
    return state.level + cost * limit.windowMs <= limit.burst * limit.windowMs
  end,

  accepted = function (state, limit, cost)
    return { level = state.level + cost * limit.windowMs, max = state.max, atMs = state.atMs }
  end,

  refused = function (state)
    return state
  end,

  encode = function (state, atMs)
    return state.level, state.max, state.atMs - atMs
  end,

  decode = function (level, max, offsetMs, atMs)
    return { level = level, max = max, atMs = atMs + offsetMs }
  end,

  refund = function (key, limit, cost, counted)
    local stored = load(read, key)
    if stored == nil then return end
    local left = counted.level - math.max(0, stored.atMs - counted.atMs) * limit.max
    local added = math.max(0, math.min(left, cost * limit.windowMs))
    redis.call('HSET', key, 'level', math.max(0, stored.level - countedBy(stored.max, limit.max, added)))
  end,

  -- Refusals leave no trace.
  addRefusals = function ()
    return false
  end,

  -- \`merged\` as in rules/fixed-window.lua. Several instances together may have accepted more than fits: then the bucket
  -- is full, but not more. The bucket of another limit of the group may be larger than this one's, and may hold more
  -- already.
  merge = function (key, limit, counted, merged)
    local stored = current(load(claim, key), limit)
    local most = math.max(limit.burst * limit.windowMs, stored.level, counted.level)
    local level = math.min(most, merged(stored.level, 'level'))
    if level == 0 then return redis.call('DEL', key) end
    save(key, { level = level, max = limit.max, atMs = nowMs }, limit)
  end
}
end
RULES['sliding-window'] = function ()
-- Two windows per key, of which the older one fades: rules/sliding-window.ts, whose steps and names these are.
--
-- State    used, fading, startsAtMs
-- Stored   a hash with these fields
-- uses     claim, moment, number

-- By \`read\` or \`claim\`. Returns the state as stored, or nil; and whether the key has lost its expiry.
local function load (reader, key)
  local fields = reader('HMGET', key, 'used', 'fading', 'startsAtMs') or {}
  local used, fading, startsAtMs = whole(fields[1]), whole(fields[2]), whole(fields[3])
  if used == nil or fading == nil or startsAtMs == nil then return nil, false end
  return { used = used, fading = fading, startsAtMs = startsAtMs }, redis.call('PTTL', key) == -1
end

local function expiresAtMs (state, limit)
  if state.used > 0 then return state.startsAtMs + 2 * limit.windowMs end
  return state.fading > 0 and state.startsAtMs + limit.windowMs or state.startsAtMs
end

local function save (key, state, limit)
  redis.call('HSET', key, 'used', state.used, 'fading', state.fading, 'startsAtMs', state.startsAtMs)
  redis.call('PEXPIREAT', key, expiresAtMs(state, limit))
end

local function current (stored, limit)
  if stored == nil then return { used = 0, fading = 0, startsAtMs = nowMs } end
  if stored.startsAtMs > nowMs then return { used = stored.used, fading = stored.fading, startsAtMs = nowMs } end
  local elapsedMs = nowMs - stored.startsAtMs
  if elapsedMs < limit.windowMs then return stored end
  if elapsedMs < 2 * limit.windowMs and stored.used > 0 then
    return { used = 0, fading = stored.used, startsAtMs = stored.startsAtMs + limit.windowMs }
  end
  return { used = 0, fading = 0, startsAtMs = nowMs }
end

return {
  load = load,
  save = save,
  current = current,

  isRepaired = function (stored, state)
    return stored.startsAtMs > state.startsAtMs
  end,

  fits = function (state, limit, cost)
    local fading = state.fading * (limit.windowMs - (nowMs - state.startsAtMs))
    return fading + (state.used + cost) * limit.windowMs <= limit.max * limit.windowMs
  end,

  accepted = function (state, _, cost)
    return { used = state.used + cost, fading = state.fading, startsAtMs = state.startsAtMs }
  end,

  refused = function (state)
    return state
  end,

  encode = function (state, atMs)
    return state.used, state.fading, state.startsAtMs - atMs
  end,

  decode = function (used, fading, offsetMs, atMs)
    return { used = used, fading = fading, startsAtMs = atMs + offsetMs }
  end,

  refund = function (key, limit, cost, counted)
    local stored = load(read, key)
    if stored == nil then return end
    local laterMs = stored.startsAtMs - counted.startsAtMs
    if math.abs(laterMs) <= sameMomentMs(limit) then
      redis.call('HSET', key, 'used', math.max(0, stored.used - cost))
    elseif math.abs(laterMs - limit.windowMs) <= sameMomentMs(limit) then
      redis.call('HSET', key, 'fading', math.max(0, stored.fading - cost))
    end
  end,

  -- Refusals leave no trace.
  addRefusals = function ()
    return false
  end,

  -- \`merged\` as in rules/fixed-window.lua. The windows of the two may begin at different moments: the nearer beginning
  -- says which window of the one is which of the other.
  merge = function (key, limit, counted, merged)
    local stored = current(load(claim, key), limit)
    local used, fading, startsAtMs = stored.used, stored.fading, stored.startsAtMs
    if used + fading == 0 then startsAtMs = counted.startsAtMs end
    local apart = math.floor((counted.startsAtMs - startsAtMs) / limit.windowMs + 0.5)
    if apart > 0 then used, fading, startsAtMs = 0, used, counted.startsAtMs end
    if apart < 0 then
      fading = merged(fading, 'used')
    else
      used = merged(used, 'used')
      fading = merged(fading, 'fading')
    end
    if used + fading == 0 then return redis.call('DEL', key) end
    save(key, { used = used, fading = fading, startsAtMs = startsAtMs }, limit)
  end
}
end

-- A rule is built when the first counter needs it.
local built = {}
local function ruleOf (algorithm)
  local rule = built[algorithm]
  if rule == nil then
    rule = RULES[algorithm]()
    built[algorithm] = rule
  end
  return rule
end
`
}

export const scripts = {
  'block-changes': parts.number + parts.time + `-- Returns the changes of the block list since one that the caller knows. It
-- writes nothing, so it also works on a full Redis.
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

  'change-blocks': parts.number + parts.time + `-- Blocks and unblocks addresses or ranges, and announces the result to the other
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
`,

  'clear-events': parts.number + parts.time + `-- Removes old events, and takes them off the counts of their addresses; a page at
-- a time, so that Redis is not held; atomic per page.
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
  -- The fields are ip, count, atMs and event, each behind its name.
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

  'count-refusals': parts.limit + parts.foreign + parts.sequence + parts.time + `-- Adds hits that were refused without asking Redis to their counters; atomic. A
-- window that is over, or another one by now, is left as it is.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter its limit: algorithm,
--          max, windowMs, burst, excess, longestMs; how many to add; and a state of
--          the window: three whole numbers, the last one a moment in ms since 1970
-- returns  how many counters were added to
-- error    GUARDLOST: as in take.lua
-- cost     three commands for each counter; O(1) each
-- uses     limit, sequence, time

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

` + parts.claim + parts.expiry + parts.moment + parts.number + parts.rules + `-- A foreign value is left alone.
local counted = 0
for i = 1, count do
  local first = 2 + 10 * (i - 1)
  local limit = limitAt(first)
  local rule = ruleOf(limit.algorithm)
  local window = rule.decode(tonumber(ARGV[first + 7]), tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9]), 0)
  if rule.addRefusals(KEYS[i], limit, tonumber(ARGV[first + 6]), window) then counted = counted + 1 end
end
return counted
`,

  fence: parts.foreign + parts.number + `-- Closes the door behind an instance that comes back: from now on only calls with
-- later numbers run (take.lua), so none of its earlier calls will. If the answer
-- is lost and the instance asks again, it gets the same answer.
--
-- KEYS     number of the instance's last call; the last answer of this script (see
--          store/keys.ts)
-- ARGV     the number to go on from; ms to keep it
-- returns  the number of the last call that ran; -1 if Redis does not know it
-- cost     O(1)
-- uses     foreign, number

-- A text that is no number is foreign, and so is one too large to go on from. It is replaced below.
local function known (text)
  local number = whole(text)
  return number and number <= 4503599627370496 and text or '-1'
end

local last = known(read('GET', KEYS[1]))
local answered, door = string.match(read('GET', KEYS[2]) or '', '^(%S+) (%S+)$')
-- This call was sent long ago and comes late: it must not open the door again.
if tonumber(last) > tonumber(ARGV[1]) then return tonumber(last) end
-- No call has run since the last answer, so the number is that of the door and not of a call.
if door == last then last = known(answered) end
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

  heartbeat: parts.time + `-- Says how many instances are alive, and the epoch of Redis' data: data that is
-- lost takes the epoch with it. Counts an instance as alive once it has replayed
-- its journal to this data.
--
-- KEYS     instances, epoch (see store/keys.ts)
-- ARGV     id of the instance; the epoch that its replay went to, or '' where that
--          is not over; ms without a heartbeat after which an instance counts as
--          gone; the epoch to begin where there is none; a moment by Redis' clock,
--          ms since 1970
-- returns  epoch; number of instances, this one among them; how many of them
--          have had a heartbeat since that moment; ms since 1970
-- cost     O(log n)
-- uses     time

local epoch = redis.call('GET', KEYS[2])
-- An epoch that would not survive the way to the instance and back is foreign.
if not epoch or not string.match(epoch, '^[%w-]+$') then
  epoch = ARGV[4]
  redis.call('SET', KEYS[2], epoch)
end
if epoch == ARGV[2] then redis.call('ZADD', KEYS[1], nowMs, ARGV[1]) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs - ARGV[3])
-- So is a heartbeat in the future.
redis.call('ZREMRANGEBYSCORE', KEYS[1], nowMs + ARGV[3], '+inf')
local isThere = redis.call('ZSCORE', KEYS[1], ARGV[1])
local instances = redis.call('ZCARD', KEYS[1]) + (isThere and 0 or 1)
return { epoch, instances, redis.call('ZCOUNT', KEYS[1], ARGV[5], '+inf'), nowMs }
`,

  'log-events': parts.foreign + parts.number + parts.sequence + `-- Records events, and counts how often each address was limited in the events
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

  merge: parts.foreign + parts.epoch + parts.limit + parts.marker + parts.time + `-- Adds hits that were counted without Redis to its counters; atomic, and once
-- for each marker however often it is sent. See \`merge\` in rules/rule.ts.
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

` + parts.claim + parts.expiry + parts.moment + parts.number + parts.rules + `local function stateAt (i, rule)
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
`,

  'merge-values': parts.foreign + parts.marker + parts.time + `-- Makes the changes of values that were made without Redis, except where another
-- instance has set or deleted a value later; atomic, and once for each marker
-- however often it is sent.
--
-- KEYS     marker, then for each: value, its note (see store/keys.ts)
-- ARGV     ms to keep the marker and the notes, id of the instance, then for
--          each: 'set', 'del' or '', the text of set, how many ms ago; how much
--          to add afterwards, and how many ms ago that was; 1 where it is given
--          an end, else 0, ms to it, and how many ms ago that was said
-- returns  1; 0 if the marker was there already
-- cost     up to six commands for each; O(1) each
-- uses     foreign, marker, time

if isReplayed(KEYS[1], ARGV[1]) then return 0 end

local keptMs, instance = ARGV[1], ARGV[2]
-- Adds nothing to a value that is no number or would become too large. Other errors, such as missing rights or memory,
-- are raised.
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

  -- Whether no other instance has set or deleted the value later. What this instance did itself came before: it sends
  -- in order.
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

  peek: parts.foreign + parts.limit + parts.time + `-- Reads the counters of a client, and changes nothing.
--
-- KEYS     the counters
-- ARGV     for each its limit: algorithm, max, windowMs, burst, excess, longestMs
-- returns  nowMs, then for each counter its state as stored: three whole numbers,
--          the last one a moment in ms from nowMs; three empty texts where there
--          is none
-- cost     two commands for each counter; O(1) each
-- uses     foreign, limit, time

` + parts.claim + parts.expiry + parts.moment + parts.number + parts.rules + `local reply = { nowMs }

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
`,

  refund: parts.limit + parts.foreign + parts.sequence + parts.time + `-- Takes back hits that must not count after all, from the windows in which they
-- were counted; atomic. See \`refund\` in rules/rule.ts.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none; for each counter its limit: algorithm,
--          max, windowMs, burst, excess, longestMs; cost; and the state as the hit
--          left it: three whole numbers, the last one a moment in ms since 1970,
--          by Redis' clock or one that was compared with it
-- returns  1
-- error    GUARDLOST: as in take.lua
-- cost     two commands for each counter; O(1) each
-- uses     limit, sequence, time

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1

` + parts.claim + parts.expiry + parts.moment + parts.number + parts.rules + `-- A foreign value is left alone.
for i = 1, count do
  local first = 2 + 10 * (i - 1)
  local limit, cost = limitAt(first), tonumber(ARGV[first + 6])
  local rule = ruleOf(limit.algorithm)
  local counted = rule.decode(tonumber(ARGV[first + 7]), tonumber(ARGV[first + 8]), tonumber(ARGV[first + 9]), 0)
  if cost > 0 then rule.refund(KEYS[i], limit, cost, counted) end
end
return 1
`,

  restore: parts.foreign + parts.epoch + parts.limit + parts.time + `-- Restores counters of a Redis that has lost all of its data; atomic. Several
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

` + parts.claim + parts.expiry + parts.moment + parts.number + parts.rules + `for i = 1, (#KEYS - 1) / 2 do
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
`,

  take: parts.time + parts.expiry + parts.limit + parts.foreign + parts.sequence + `-- Counts a batch of hits against their limits; atomic. The steps are those of
-- rules/rate-limit.ts, with its names; test/store/parity.sized.test.ts compares
-- the two.
--
-- KEYS     for each hit, the counter of each of its checks; a counter may come
--          again, and is then as the hits before have left it. Behind them, with
--          a number, where the last one of the instance is kept
-- ARGV     number of the batch, 0 for none; number of shapes, the shapes, and runs
--          of hits of one shape in the order of KEYS. A shape: number of checks,
--          then for each the limit: algorithm, max, windowMs, burst, excess,
--          longestMs; cost, shadow (0 or 1). A run: number of the shape, number of
--          hits
-- returns  nowMs, then for each check of each hit the state after the decision:
--          three whole numbers, the last one a moment in ms from nowMs. Where the
--          check refuses, the first one is -1 less it. Last the number of the
--          batch, if it has one
-- error    GUARDLOST: nothing was counted, since a later batch has run already,
--          or Redis has lost its data
-- cost     two commands for each hit of cost 1 that a fixed-window lets pass, else
--          for each counter one if it is only read, up to five if it changes;
--          O(1) each
-- uses     expiry, limit, sequence, time

-- Locals are read faster than globals.
local KEYS, ARGV, call, pcall, type = KEYS, ARGV, redis.call, redis.pcall, type

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end

local states = {}    -- by key: the state as the hits before left it; false: none
local reply, length = { nowMs }, 1

-- Makes the two functions that decide any hit, and save what was decided.
-- Called when the first hit needs them: Lua builds all of these functions again
-- in each call, which costs as much as counting ten usual hits.
local function general ()
` + parts.claim + parts.moment + parts.number + parts.rules + `  local unsaved = {}      -- by key: the check to save by
  local lostExpiry = {}   -- by key: whether the key must be written to have an expiry

  -- One hit, against the checks of its shape; its keys begin behind \`before\`.
  local function decide (shape, before)
    local decisions = {}
    local accepted = true
    for i, check in ipairs(shape) do
      local key, rule = KEYS[before + i], ruleOf(check.algorithm)
      if states[key] == nil then
        local stored, lost = rule.load(claim, key, check)
        states[key], lostExpiry[key] = stored or false, lost
      end
      local stored = states[key] or nil
      local state = rule.current(stored, check)
      local fits = check.cost == 0 or rule.fits(state, check, check.cost)
      local repaired = lostExpiry[key] or (stored ~= nil and rule.isRepaired(stored, state))
      decisions[i] = { rule = rule, state = state, fits = fits, repaired = repaired }
      accepted = accepted and (fits or check.shadow)
    end
    for i, check in ipairs(shape) do
      local key, decision = KEYS[before + i], decisions[i]
      local rule, state, changed = decision.rule, decision.state, decision.repaired
      if not decision.fits then
        state = rule.refused(decision.state, check)
        changed = changed or state ~= decision.state
      elseif accepted and check.cost > 0 then
        state, changed = rule.accepted(state, check, check.cost), true
      end
      if changed then
        states[key], unsaved[key], lostExpiry[key] = state, check, false
      end
      local first, second, offsetMs = rule.encode(state, nowMs)
      reply[length + 1], reply[length + 2], reply[length + 3] = decision.fits and first or -1 - first, second, offsetMs
      length = length + 3
    end
  end

  local function saveAll ()
    for key, check in pairs(unsaved) do ruleOf(check.algorithm).save(key, states[key], check) end
  end

  return decide, saveAll
end

local at = 3
local shapes = {}
for number = 1, tonumber(ARGV[2]) do
  local shape = {}
  for i = 1, tonumber(ARGV[at]) do
    local first = at + 1 + 8 * (i - 1)
    local check = limitAt(first)
    check.cost, check.shadow = tonumber(ARGV[first + 6]), ARGV[first + 7] == '1'
    shape[i] = check
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
  local adds = #shape == 1 and check.algorithm == 'fixed-window' and check.excess == 'none' and check.cost == 1
  for _ = 1, tonumber(ARGV[at + 1]) do
    local key = KEYS[before + 1]
    -- A hit of cost 1 at a fixed-window that has refused nothing adds 1, so
    -- nothing has to be read first, nor kept. Most services run almost nothing
    -- else, so it is no function: its call would cost too much. This is the one
    -- place outside of rules/ that knows how a counter is stored.
    local used = adds and states[key] == nil and pcall('INCR', key)
    if type(used) == 'number' and used > 0 and used <= 9007199254740991 then
      local atMs = used > 1 and (hasExpireTime and call('PEXPIRETIME', key) or expiryOf(key)) or nowMs
      local leftMs = atMs - nowMs
      if leftMs <= 0 or leftMs > windowMs then
        -- A new window; or one that restarts, since its end was lost or lies too far ahead.
        if leftMs <= 0 and atMs ~= -1 then
          if used > 1 then call('SET', key, 1) end
          used = 1
        end
        leftMs = windowMs
        call('PEXPIREAT', key, nowMs + windowMs)
      end
      if used <= max then
        reply[length + 1], reply[length + 2], reply[length + 3] = used, 0, leftMs
      else
        -- The hit did not pass. The next one finds no plain number, and is decided below.
        call('SET', key, string.format('%.0f:1', used - 1), 'KEEPTTL')
        reply[length + 1], reply[length + 2], reply[length + 3] = -used, 1, leftMs
      end
      length = length + 3
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

  value: parts.foreign + parts.sequence + parts.time + `-- Changes a value, and notes when it was set or deleted and by which instance;
-- atomic.
--
-- KEYS     value, its note; with a number, where the last one of the instance
--          is kept (see store/keys.ts)
-- ARGV     number of the call, 0 for none; id of the instance, ms to keep the
--          note; set, incr, expire or del; of set the text, and ms to live or ''
--          for good; of expire ms to live
-- returns  set: 1; incr: the sum as a text, ms to live as PTTL has it; expire
--          and del: 1 if there was such a key, else 0
-- error    GUARDLOST: as in take.lua; the error of INCR if it rejects the value
-- cost     up to four commands; O(1) each
-- uses     sequence, time

local lost = notNext(KEYS[3], ARGV[1])
if lost then return lost end

local operation = ARGV[4]
if operation == 'incr' then
  -- The sum is a text, since Lua's numbers have 53 bits. pcall, since \`call\` would put its own words before the error.
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
