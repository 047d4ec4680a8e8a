-- ms by which one moment of a limit may differ on two clocks: rules/rule.ts.
local function sameMomentMs (limit)
  return math.min(1000, math.floor((limit.windowMs - 1) / 2))
end

