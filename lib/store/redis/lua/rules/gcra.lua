-- A bucket that drains evenly: rules/gcra.ts, whose steps and names these are.
--
-- State    level, max, atMs
-- Stored   a hash with these fields
-- uses     claim, number

-- By `read` or `claim`. Returns the state as stored, or nil; and whether the key has lost its expiry.
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

  -- `merged` as in rules/fixed-window.lua. Several instances together may have accepted more than fits: then the bucket
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
