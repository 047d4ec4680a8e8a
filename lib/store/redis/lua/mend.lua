-- Deletes the guard's own keys whose values it cannot use: another program has
-- written them.
--
-- KEYS     keys of one slot
-- ARGV     for each key its type: hash, zset, stream, number or text
-- returns  for each key 1 if it was deleted, else 0
-- cost     up to three commands for each; O(1) each, and O(n) to delete a key
-- uses     number

-- Other errors, such as missing rights or memory, say nothing about the value.
local function isForeign (reply)
  if type(reply) ~= 'table' or reply.err == nil then return false end
  for _, words in ipairs({ 'WRONGTYPE', 'exhausted the last possible ID', 'equal or smaller than the target' }) do
    if string.find(reply.err, words, 1, true) then return true end
  end
  return false
end

local function mustGo (key, wanted)
  if wanted == 'hash' then return isForeign(redis.pcall('HLEN', key)) end
  if wanted == 'zset' then return isForeign(redis.pcall('ZCARD', key)) end
  if wanted == 'stream' then
    local id = redis.pcall('XADD', key, '*', 'probe', '')
    if type(id) ~= 'table' then redis.call('XDEL', key, id) end
    return isForeign(id)
  end
  local text = redis.pcall('GET', key)
  if wanted == 'text' or type(text) ~= 'string' then return isForeign(text) end
  return whole(text) == nil
end

local emptied = {}
for i, key in ipairs(KEYS) do
  emptied[i] = mustGo(key, ARGV[i]) and redis.call('DEL', key) or 0
end
return emptied
