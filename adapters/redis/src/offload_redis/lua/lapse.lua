-- End the sessions whose leases have run out.
-- KEYS running, leases
-- Returns the sessions that go on, and the fields of all running jobs.

redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now_ms())
return {redis.call('ZRANGE', KEYS[2], 0, -1), redis.call('HKEYS', KEYS[1])}
