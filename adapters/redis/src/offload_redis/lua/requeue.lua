-- Put up to 100 dead letters back to the end of their queue, as attempt 1.
-- KEYS ready, wake, dead, dead_jobs, dead_reasons
-- ARGV the ids
-- Returns those that were there.

local moved = {}
write_nothing(KEYS[4])
for i, wanted in ipairs(ARGV) do
  local entry = redis.call('HGET', KEYS[4], wanted)
  if entry then
    local _, _, _, body = read(entry, '')
    local id = is_id(wanted) and wanted or new_id(i)
    redis.call('RPUSH', KEYS[1], pack(id, 0, now_ms(), body))
    redis.call('ZREM', KEYS[3], wanted)
    redis.call('HDEL', KEYS[5], wanted)
    redis.call('HDEL', KEYS[4], wanted)
    moved[#moved + 1] = wanted
  end
end
if #moved > 0 then
  leave_marker(KEYS[2])
end
return moved
