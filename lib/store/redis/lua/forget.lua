-- Deletes counters of one client; atomic.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none
-- returns  how many counters there were
-- error    GUARDLOST: as in take.lua
-- cost     O(1) for each counter

local number, count = tonumber(ARGV[1]), #KEYS
if number > 0 then
  local last = tonumber(redis.call('GET', KEYS[count]) or nil)
  if last == nil or number <= last then return redis.error_reply('GUARDLOST call ' .. ARGV[1] .. ' is not the next one') end
  redis.call('SET', KEYS[count], ARGV[1], 'KEEPTTL')
  count = count - 1
end
return redis.call('DEL', unpack(KEYS, 1, count))
