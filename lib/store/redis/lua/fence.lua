-- Closes the door behind an instance that comes back: from now on only calls with
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
