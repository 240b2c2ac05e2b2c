-- Forget up to 100 dead letters.
-- KEYS dead, dead_jobs, dead_reasons
-- ARGV the ids
-- Returns those that were there.

local gone = {}
for _, id in ipairs(ARGV) do
  local parts = redis.call('HDEL', KEYS[2], id) + redis.call('HDEL', KEYS[3], id)
  if redis.call('ZREM', KEYS[1], id) + parts > 0 then
    gone[#gone + 1] = id
  end
end
return gone
