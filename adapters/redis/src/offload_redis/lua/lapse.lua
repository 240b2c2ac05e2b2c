-- End the sessions whose leases have run out.
-- KEYS running, leases, numbers
-- Returns the sessions that go on, and the fields of all running jobs.

for _, session in ipairs(redis.call('ZRANGE', KEYS[2], '-inf', now_ms(), 'BYSCORE')) do
  redis.call('ZREM', KEYS[2], session)
  redis.call('HDEL', KEYS[3], session)
end
return {redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HKEYS', KEYS[1])}
