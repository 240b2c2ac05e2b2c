-- Make dead letters of what strangers left half of: an id, an entry or a reason without the others.
-- KEYS dead, dead_jobs, dead_reasons
-- Returns how many.

local count = redis.call('ZCARD', KEYS[1])
if redis.call('HLEN', KEYS[2]) == count and redis.call('HLEN', KEYS[3]) == count then
  return 0
end
local adopted = 0
local now = now_ms()
for _, ids in ipairs({
  redis.call('ZRANGE', KEYS[1], 0, -1), redis.call('HKEYS', KEYS[2]), redis.call('HKEYS', KEYS[3]),
}) do
  for _, id in ipairs(ids) do
    local new = redis.call('ZADD', KEYS[1], 'NX', now, id)
      + redis.call('HSETNX', KEYS[2], id, '') + redis.call('HSETNX', KEYS[3], id, '{}')
    adopted = adopted + math.min(new, 1)
  end
end
return adopted
