-- Runs a command that reads a key. A value of another type is foreign: then it returns false and true. Other errors, such
-- as missing rights, are raised.
local function read (command, key, ...)
  local reply = redis.pcall(command, key, ...)
  if type(reply) ~= 'table' or reply.err == nil then return reply, false end
  if not string.find(reply.err, 'WRONGTYPE', 1, true) then return redis.call(command, key, ...) end
  return false, true
end

