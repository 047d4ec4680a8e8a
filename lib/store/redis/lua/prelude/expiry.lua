-- uses     time
-- Redis 7 has PEXPIRETIME; older versions only have PTTL, the time left.
local hasExpireTime = redis.REDIS_VERSION_NUM ~= nil and redis.REDIS_VERSION_NUM >= 0x00070000

-- When a key expires, ms since 1970; below 0 as PTTL has it.
local function expiryOf (key)
  if hasExpireTime then return redis.call('PEXPIRETIME', key) end
  local leftMs = redis.call('PTTL', key)
  return leftMs < 0 and leftMs or nowMs + leftMs
end

