-- Closes the door behind an instance that comes back: of its batches that have
-- not run yet, none will, since from now on only later numbers are taken
-- (take.lua).
--
-- KEYS     number of the instance's last batch
-- ARGV     the number to go on from, ms to keep it
-- returns  the number of the last batch that ran; -1 where it is not known here
-- cost     O(1)

local last = redis.call('GET', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return tonumber(last or nil) or -1
