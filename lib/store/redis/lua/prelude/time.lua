-- Redis' clock: seconds and microseconds, and ms since 1970.
local time = redis.call('TIME')
local nowMs = time[1] * 1000 + math.floor(time[2] / 1000)

