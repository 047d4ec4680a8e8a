-- Tries what a decision needs: scripts, Redis' clock, and a write.
--
-- KEYS     a key that is used for nothing else
-- returns  nothing
-- cost     O(1)

redis.call('TIME')
redis.call('SET', KEYS[1], 1, 'PX', 10000)
