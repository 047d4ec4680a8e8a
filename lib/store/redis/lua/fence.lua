-- Closes the door behind an instance that comes back: of its batches that have
-- not run yet, none will, since from now on only later numbers are taken
-- (take.lua). Asked again because its answer was lost, it tells the same.
--
-- KEYS     number of the instance's last batch, what was told last (see
--          store/keys.ts)
-- ARGV     the number to go on from, ms to keep it
-- returns  the number of the last batch that ran; -1 where it is not known here
-- cost     O(1)
-- uses     foreign, number

-- A value that is no number that can be incremented is foreign: it is replaced below.
local function known (text)
  local number = whole(text)
  return number and number <= 4503599627370496 and text or '-1'
end

local last = known(read('GET', KEYS[1]))
local told, door = string.match(read('GET', KEYS[2]) or '', '^(%S+) (%S+)$')
-- One that was sent long ago, and comes now: the door is not opened again.
if tonumber(last) > tonumber(ARGV[1]) then return tonumber(last) end
-- No batch has run since: the door is not what ran.
if door == last then last = known(told) end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], last .. ' ' .. ARGV[1], 'PX', ARGV[2])
return tonumber(last)
