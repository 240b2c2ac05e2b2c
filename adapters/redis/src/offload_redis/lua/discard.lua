-- Forget up to 100 dead letters.
-- KEYS dead, dead_jobs, dead_reasons
-- ARGV the ids
-- Returns those that were there.

local gone = {}
for _, id in ipairs(ARGV) do
  if redis.call('ZREM', KEYS[1], id) == 1 then
    redis.call('HDEL', KEYS[2], id)
    redis.call('HDEL', KEYS[3], id)
    gone[#gone + 1] = id
  end
end
return gone
