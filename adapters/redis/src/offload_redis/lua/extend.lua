-- Hold the leases of a session for longer, and look for suspects: busy workers come by here only.
-- KEYS leases
-- ARGV session, lease in ms
-- Returns 0 if the session held them no more, else 1.

if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  return 0
end
local now = now_ms()
hold(KEYS[1], ARGV[1], ARGV[2], now)
suspect(KEYS[1], 0, now, ARGV[2], now)
return 1
