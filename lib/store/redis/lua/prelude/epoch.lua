-- uses     foreign
-- An error to reply where this Redis has lost its data since it reported `epoch`; nil otherwise. '': nobody knows, as in
-- a Cluster.
local function lostSince (epoch, key)
  if epoch == '' or read('GET', key) == epoch then return nil end
  return redis.error_reply('GUARDLOST the epoch is another one')
end

