-- Counts a batch of hits against their limits; atomic.
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

  -- One hit, against the checks of its shape; its keys begin behind `before`.
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
