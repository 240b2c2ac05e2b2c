-- End a session: what it has leased goes back to the head, as if never taken.
-- KEYS running, leases, ready, wake, numbers
-- ARGV session

local start = ARGV[1] .. '.'
local filed = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local number = field:sub(1, #start) == start and tonumber(field:sub(#start + 1))
  if number then
    filed[#filed + 1] = {number, field}
  end
end
table.sort(filed, function(one, other) return one[1] > other[1] end)
write_nothing(KEYS[1])
for _, each in ipairs(filed) do
  redis.call('LPUSH', KEYS[3], redis.call('HGET', KEYS[1], each[2]))
  redis.call('HDEL', KEYS[1], each[2])
end
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[5], ARGV[1])
if redis.call('EXISTS', KEYS[3]) == 1 then
  leave_marker(KEYS[4])
end
return #filed
