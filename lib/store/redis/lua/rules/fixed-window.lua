-- One window per key: rules/fixed-window.ts, whose steps and names these are.
--
-- State    used, refused, endsAtMs
-- Stored   a plain number, `used`; or `used:refused` once there are refusals. The key expires at the end of the window
-- uses     claim, expiry, moment, number

-- By `read` or `claim`. Returns the state as stored, or nil; and whether the key has lost its expiry: then it counts as
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

  -- `merged` gets a number of the stored state and the field of `counted` to merge it with, and returns the number to
  -- store. A window of `counted` that is over counts no more. A stored window that still runs keeps its own end: refusals
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
