-- Counts a batch of hits against their limits; atomic. The steps are those of
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
  --@rules
  local unsaved = {}      -- by key: the check to save by
  local lostExpiry = {}   -- by key: whether the key must be written to have an expiry

  -- One hit, against the checks of its shape; its keys begin behind `before`.
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
