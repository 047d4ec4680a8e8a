-- Two windows per key, of which the older one fades: rules/sliding-window.ts, whose steps and names these are.
--
-- State    used, fading, startsAtMs
-- Stored   a hash with these fields
-- uses     claim, moment, number

-- By `read` or `claim`. Returns the state as stored, or nil; and whether the key has lost its expiry.
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

  -- `merged` as in rules/fixed-window.lua. The windows of the two may begin at different moments: the nearer beginning
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
