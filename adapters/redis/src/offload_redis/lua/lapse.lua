-- End the suspects whose time is up, but not the session of the worker that sweeps.
-- KEYS running, leases, numbers
-- ARGV session of the worker that sweeps, its lease in ms
-- Returns the sessions that go on, and the fields of all running jobs.

local now = now_ms()
-- No lease is longer than a day; one that is said to be would never end.
local far = now + 2 * 86400000
suspect(KEYS[2], far, '+inf', ARGV[2], now)
suspect(KEYS[2], '-inf', -far, ARGV[2], now)
for _, session in ipairs(redis.call('ZRANGE', KEYS[2], -now, '(0', 'BYSCORE')) do
  if session ~= ARGV[1] then
    redis.call('ZREM', KEYS[2], session)
    redis.call('HDEL', KEYS[3], session)
  end
end
return {redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HKEYS', KEYS[1])}
