-- Changes a value, and notes when it was set or deleted and by which instance;
-- atomic.
--
-- KEYS     value, its note; with a number, where the last one of the instance
--          is kept (see store/keys.ts)
-- ARGV     number of the call, 0 for none; id of the instance, ms to keep the
--          note; set, incr, expire or del; of set the text, and ms to live or ''
--          for good; of expire ms to live
-- returns  set: 1; incr: the sum as a text, ms to live as PTTL has it; expire
--          and del: 1 if there was such a key, else 0
-- error    GUARDLOST: as in take.lua; the error of INCR if it rejects the value
-- cost     up to four commands; O(1) each
-- uses     sequence, time

local lost = notNext(KEYS[3], ARGV[1])
if lost then return lost end

local operation = ARGV[4]
if operation == 'incr' then
  -- The sum is a text, since Lua's numbers have 53 bits. pcall, since `call` would put its own words before the error.
  local sum = redis.pcall('INCR', KEYS[1])
  if type(sum) == 'table' then return sum end
  return { redis.call('GET', KEYS[1]), redis.call('PTTL', KEYS[1]) }
end
if operation == 'expire' then return redis.call('PEXPIRE', KEYS[1], ARGV[5]) end

redis.call('SET', KEYS[2], string.format('%.0f', nowMs) .. ' ' .. ARGV[2], 'PX', ARGV[3])
if operation == 'del' then return redis.call('DEL', KEYS[1]) end
if ARGV[6] == '' then redis.call('SET', KEYS[1], ARGV[5]) else redis.call('SET', KEYS[1], ARGV[5], 'PX', ARGV[6]) end
return 1
