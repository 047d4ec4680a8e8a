-- uses     foreign
-- Like `read`, and deletes a foreign value, so that the key can be written.
local function claim (command, key, ...)
  local reply, isForeign = read(command, key, ...)
  if isForeign then redis.call('DEL', key) end
  return reply
end

