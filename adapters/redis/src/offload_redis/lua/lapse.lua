-- End the sessions whose leases have run out.
-- KEYS running, leases, numbers
-- ARGV session of the worker that sweeps, its lease in ms
-- Returns whether it did, the sessions that go on, and the fields of all running jobs.

local now = now_ms()
local own = redis.call('ZSCORE', KEYS[2], ARGV[1])
if own and tonumber(own) <= now then
  -- This worker lives, and could not extend its own: so it was for the others. Give them time.
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
  return {0, {}, {}}
end
-- No lease is longer than a day; one that is said to be would never end.
for _, range in ipairs({{'-inf', now}, {now + 2 * 86400000, '+inf'}}) do
  for _, session in ipairs(redis.call('ZRANGE', KEYS[2], range[1], range[2], 'BYSCORE')) do
    redis.call('ZREM', KEYS[2], session)
    redis.call('HDEL', KEYS[3], session)
  end
end
return {1, redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HKEYS', KEYS[1])}
