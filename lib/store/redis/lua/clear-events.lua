-- Removes old events, and takes them off the counts of their addresses; a page at
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
