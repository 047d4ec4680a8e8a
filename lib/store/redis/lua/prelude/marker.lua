-- uses     foreign
-- Whether this call has run already; leaves the marker that says so.
local function isReplayed (key, keptMs)
  if read('GET', key) == '1' then return true end
  redis.call('SET', key, 1, 'PX', keptMs)
  return false
end

