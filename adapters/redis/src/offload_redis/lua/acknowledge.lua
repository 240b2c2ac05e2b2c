-- Forget up to 100 jobs that one session has leased.
-- KEYS running, leases
-- ARGV session, then the fields
-- Returns the fields that were no longer the session's.

if redis.call('ZSCORE', KEYS[2], ARGV[1]) then
  -- A field that is missing was settled by this very call, whose answer was lost.
  redis.call('HDEL', KEYS[1], unpack(ARGV, 2))
  return {}
end
local foreign = {}
for i = 2, #ARGV do
  if redis.call('HDEL', KEYS[1], ARGV[i]) == 0 then
    foreign[#foreign + 1] = ARGV[i]
  end
end
return foreign
