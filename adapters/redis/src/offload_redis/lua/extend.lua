-- Hold the leases of a session for longer.
-- KEYS leases
-- ARGV session, lease in ms
-- Returns 0 if the session held them no more, 2 if they had run out, else 1.

local now = now_ms()
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not until_ms then
  return 0
end
redis.call('ZREM', KEYS[1], ARGV[1])  -- a full server would refuse to begin with what follows
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
return tonumber(until_ms) <= now and 2 or 1
