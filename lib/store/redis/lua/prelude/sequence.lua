-- uses     foreign
-- Notes the number of this call where the last one of the instance is kept. '0': the call has none.
--
-- returns  an error to reply where it is not the next one: Redis has lost its data, or a later call has run already. A
--          foreign value in place of the last number counts as lost data
local function notNext (key, number)
  if number == '0' then return nil end
  local last = tonumber(read('GET', key) or nil)
  if last == nil or not (tonumber(number) > last) then
    return redis.error_reply('GUARDLOST call ' .. number .. ' is not the next one')
  end
  redis.call('SET', key, number, 'KEEPTTL')
end

