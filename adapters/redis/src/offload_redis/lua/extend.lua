-- Hold the leases of a session for longer.
-- KEYS leases
-- ARGV session, lease in ms
-- Returns whether the session still held them.

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])  -- a full server would refuse to begin with what follows
redis.call('ZADD', KEYS[1], now_ms() + ARGV[2], ARGV[1])
return 1
