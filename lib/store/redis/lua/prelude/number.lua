-- A whole number from 0 to 2^53 - 1, of its decimal digits; nil for any other text: it is foreign.
local function whole (text)
  local number = string.match(text or '', '^%d+$') and tonumber(text)
  return number and number <= 9007199254740991 and number or nil
end

