-- Counts a batch of hits against their limits; atomic.
-- The steps are those of rules/rate-limit.ts, in its order and with its names;
-- test/store/parity.test.ts compares the two.
--
-- KEYS     the counters, each once
-- ARGV     the hits, one after another. A hit: number of checks, then for each
--          check: index into KEYS, algorithm (1 fixed-window, 2 sliding-window,
--          3 gcra), max, windowMs, burst, cost. Whole numbers all.
-- returns  nowMs, then for each check of each hit: fits (1 or 0), and the state
--          after the decision: used, previous, atMs. Whole numbers all.
-- cost     two commands for each key that is only read, up to four for one that
--          changes; O(1) each
--
-- Stored: fixed-window as a plain number whose expiry is the end of its window,
-- the others as hashes with the state's names.

local FIXED_WINDOW, SLIDING_WINDOW, GCRA = 1, 2, 3

local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

-- Redis 7 tells the moment of expiry, older versions only the time left.
local tellsExpiry = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000

local function expiryOf (key)
  if tellsExpiry then return redis.call('PEXPIRETIME', key) end
  local leftMs = redis.call('PTTL', key)
  if leftMs < 0 then return leftMs end
  return nowMs + leftMs
end

-- A key of another type is none of ours: it goes, and counting begins anew.
local function read (command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or reply.err == nil then return reply end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.call(command, key, ...) end
  redis.call('DEL', key)
  return false
end

-- State as stored, or nil. A key that lost its expiry is given one, as if its window began now.
local function load (key, algorithm, windowMs)
  if algorithm == FIXED_WINDOW then
    local used = tonumber(read('GET', key) or nil)
    if used == nil then return nil, false end
    local atMs = expiryOf(key)
    if atMs == -1 then return { used = used, previous = 0, atMs = nowMs + windowMs }, true end
    return { used = used, previous = 0, atMs = atMs }, false
  end
  local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
  local used, previous, atMs = tonumber(fields[1] or nil), tonumber(fields[2] or nil), tonumber(fields[3] or nil)
  if used == nil or previous == nil or atMs == nil then return nil, false end
  return { used = used, previous = previous, atMs = atMs }, redis.call('PTTL', key) == -1
end

local function drainMs (amount, limit)
  if limit.max == 0 then return limit.windowMs end
  return math.ceil(amount / limit.max)
end

local function drained (used, elapsedMs, limit)
  if limit.max > 0 then return elapsedMs * limit.max end
  return elapsedMs >= limit.windowMs and used or 0
end

local function repaired (stored, limit)
  if limit.algorithm == FIXED_WINDOW then return stored.atMs - nowMs > limit.windowMs end
  return stored.atMs > nowMs
end

local function current (stored, limit)
  local windowMs = limit.windowMs
  if limit.algorithm == FIXED_WINDOW then
    if stored == nil or nowMs >= stored.atMs then return { used = 0, previous = 0, atMs = nowMs + windowMs } end
    if repaired(stored, limit) then return { used = stored.used, previous = 0, atMs = nowMs + windowMs } end
    return stored
  end
  if stored == nil then return { used = 0, previous = 0, atMs = nowMs } end
  if limit.algorithm == SLIDING_WINDOW then
    if repaired(stored, limit) then return { used = stored.used, previous = stored.previous, atMs = nowMs } end
    local elapsedMs = nowMs - stored.atMs
    if elapsedMs < windowMs then return stored end
    if elapsedMs < 2 * windowMs and stored.used > 0 then
      return { used = 0, previous = stored.used, atMs = stored.atMs + windowMs }
    end
    return { used = 0, previous = 0, atMs = nowMs }
  end
  local elapsedMs = repaired(stored, limit) and 0 or nowMs - stored.atMs
  local used = math.min(limit.burst * windowMs, math.max(0, stored.used - drained(stored.used, elapsedMs, limit)))
  return { used = used, previous = 0, atMs = nowMs }
end

local function fits (state, limit, cost)
  local windowMs = limit.windowMs
  if limit.algorithm == FIXED_WINDOW then return state.used + cost <= limit.max end
  if limit.algorithm == SLIDING_WINDOW then
    local fading = state.previous * (windowMs - (nowMs - state.atMs))
    return fading + (state.used + cost) * windowMs <= limit.max * windowMs
  end
  return state.used + cost * windowMs <= limit.burst * windowMs
end

local function accept (state, limit, cost)
  local amount = cost
  if limit.algorithm == GCRA then amount = cost * limit.windowMs end
  return { used = state.used + amount, previous = state.previous, atMs = state.atMs }
end

local function refuse (state, limit)
  if limit.algorithm == FIXED_WINDOW and state.used >= limit.max then
    return { used = state.used + 1, previous = 0, atMs = state.atMs }
  end
  return state
end

local function expiresAtMs (state, limit)
  if limit.algorithm == FIXED_WINDOW then return state.atMs end
  if limit.algorithm == GCRA then return state.atMs + drainMs(state.used, limit) end
  if state.used > 0 then return state.atMs + 2 * limit.windowMs end
  if state.previous > 0 then return state.atMs + limit.windowMs end
  return state.atMs
end

-- Numbers go to redis.call as they are: tostring would drop digits of long ones.
local function save (key, state, limit)
  if limit.algorithm == FIXED_WINDOW then
    redis.call('SET', key, state.used)
  else
    redis.call('HSET', key, 'used', state.used, 'previous', state.previous, 'atMs', state.atMs)
  end
  redis.call('PEXPIREAT', key, expiresAtMs(state, limit))
end

local states = {}    -- by index into KEYS: the state as the hits before left it; false: none
local lostExpiry = {}
local unsaved = {}   -- by index into KEYS: the limit to save by

local reply = { nowMs }
local at = 1
while at <= #ARGV do
  local checks = {}
  local accepted = true
  local count = tonumber(ARGV[at])
  at = at + 1
  for i = 1, count do
    local limit = {
      algorithm = tonumber(ARGV[at + 1]), max = tonumber(ARGV[at + 2]),
      windowMs = tonumber(ARGV[at + 3]), burst = tonumber(ARGV[at + 4])
    }
    local index, cost = tonumber(ARGV[at]), tonumber(ARGV[at + 5])
    at = at + 6
    if states[index] == nil then
      local stored, lost = load(KEYS[index], limit.algorithm, limit.windowMs)
      states[index], lostExpiry[index] = stored or false, lost
    end
    local stored = states[index] or nil
    local state = current(stored, limit)
    local fit = fits(state, limit, cost)
    checks[i] = {
      index = index, limit = limit, cost = cost, state = state, fits = fit,
      repaired = lostExpiry[index] or (stored ~= nil and repaired(stored, limit))
    }
    accepted = accepted and fit
  end
  for i = 1, count do
    local check = checks[i]
    local state, changed = check.state, check.repaired
    if accepted then
      state, changed = accept(state, check.limit, check.cost), true
    elseif not check.fits then
      state = refuse(check.state, check.limit)
      changed = changed or state ~= check.state
    end
    if changed then
      states[check.index], unsaved[check.index], lostExpiry[check.index] = state, check.limit, false
    end
    local n = #reply
    reply[n + 1], reply[n + 2], reply[n + 3], reply[n + 4] = check.fits and 1 or 0, state.used, state.previous, state.atMs
  end
end

for index, limit in pairs(unsaved) do
  save(KEYS[index], states[index], limit)
end

return reply
