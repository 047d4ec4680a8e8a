-- Reads the counters of a client, and changes nothing.
--
-- KEYS     the counters
-- ARGV     for each its algorithm: 1 fixed-window, 2 sliding-window, 3 gcra
-- returns  nowMs, then for each counter used, previous and ms from nowMs to
--          atMs; all of them empty texts where there is none
-- cost     two commands for each counter; O(1) each
-- uses     foreign, time

local reply = { nowMs }

local function add (used, previous, offsetMs)
  if tonumber(used or nil) == nil or tonumber(offsetMs or nil) == nil then used, previous, offsetMs = '', '', '' end
  reply[#reply + 1] = used
  reply[#reply + 1] = previous
  reply[#reply + 1] = offsetMs
end

-- A foreign value counts as none; it is replaced when somebody is counted there.
for i, key in ipairs(KEYS) do
  if ARGV[i] == '1' then
    local text = read('GET', key)
    local used, previous = string.match(text or '', '^(%d+):(%d+)$')
    local leftMs = redis.call('PTTL', key)
    add(used or text, previous or 0, leftMs >= 0 and leftMs)
  else
    local fields = read('HMGET', key, 'used', 'previous', 'atMs') or {}
    local atMs = tonumber(fields[3] or nil)
    add(fields[1], fields[2], atMs and atMs - nowMs)
  end
end
return reply
