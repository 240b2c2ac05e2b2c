-- End a session: what it has leased goes back to the head, as if never taken.
-- KEYS running, leases, ready, wake, numbers
-- ARGV session

local start = ARGV[1] .. '.'
local numbers = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  if field:sub(1, #start) == start then
    numbers[#numbers + 1] = tonumber(field:sub(#start + 1))
  end
end
table.sort(numbers)
write_nothing(KEYS[1])
for i = #numbers, 1, -1 do
  local field = start .. numbers[i]
  redis.call('LPUSH', KEYS[3], redis.call('HGET', KEYS[1], field))
  redis.call('HDEL', KEYS[1], field)
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then
  redis.call('ZADD', KEYS[4], 0, 'wake')
end
return #numbers
