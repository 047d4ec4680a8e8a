-- A limit takes six arguments: algorithm, max, windowMs, burst, excess, longestMs.
local function limitAt (i)
  return {
    algorithm = ARGV[i], max = tonumber(ARGV[i + 1]), windowMs = tonumber(ARGV[i + 2]), burst = tonumber(ARGV[i + 3]),
    excess = ARGV[i + 4], longestMs = tonumber(ARGV[i + 5])
  }
end

