-- Makes the changes of values that were made without Redis, except where another
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
