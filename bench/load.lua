-- The requests of wrk: GET / from many addresses, one after the other, named as
-- a trusted proxy names them. Arguments, after `--`:
--
--   addresses  how many of 198.18.0.0/15, the range set aside for benchmarks
--   blocked    how many of each 100 requests come from 203.0.113.0/24 instead,
--              which the servers of that scenario have blocked
--
-- Prints one line of JSON at the end.
local requests = {}
local sent = 0

local function requestFrom (address)
  return wrk.format('GET', '/', { ['X-Forwarded-For'] = address })
end

-- All requests are made before the load begins: wrk shares a core with Redis.
function init (args)
  local addresses, blocked = tonumber(args[1]), tonumber(args[2])
  for i = 0, addresses - 1 do
    local address
    if i % 100 < blocked then
      address = string.format('203.0.113.%d', i % 256)
    else
      address = string.format('198.%d.%d.%d', 18 + math.floor(i / 65536), math.floor(i / 256) % 256, i % 256)
    end
    requests[#requests + 1] = requestFrom(address)
  end
  -- Otherwise each short run would begin with the same of the 100,000 addresses.
  math.randomseed(os.time())
  sent = math.random(#requests)
end

function request ()
  sent = sent % #requests + 1
  return requests[sent]
end

function done (summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"durationMicros":%d,"p50Micros":%d,"p99Micros":%d,"refused":%d,"failed":%d}\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), errors.status,
    errors.connect + errors.read + errors.write + errors.timeout
  ))
end
