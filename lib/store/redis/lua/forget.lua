-- Deletes counters of one client; atomic.
--
-- KEYS     counters; with a number, where the last one of the instance is kept
-- ARGV     number of the call, 0 for none
-- returns  how many counters there were
-- error    GUARDLOST: as in take.lua
-- cost     O(1) for each counter
-- uses     sequence

local lost = notNext(KEYS[#KEYS], ARGV[1])
if lost then return lost end
local count = ARGV[1] == '0' and #KEYS or #KEYS - 1
return redis.call('DEL', unpack(KEYS, 1, count))
