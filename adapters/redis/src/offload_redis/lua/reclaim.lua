-- Give up to 100 jobs of ended sessions back to the head of the queue; the attempt counts.
-- KEYS running, leases, ready, wake
-- ARGV the fields, the one that was taken last first

write_nothing(KEYS[1])
for i, field in ipairs(ARGV) do
  local session = field:match('^(.*)%.')
  local entry = redis.call('HGET', KEYS[1], field)
  if entry and not (session and redis.call('ZSCORE', KEYS[2], session)) then
    local id, attempts, due, body = read(entry, field)
    if not is_id(id) then
      id = new_id(i)  -- a stranger's bytes under a stranger's field
    end
    redis.call('LPUSH', KEYS[3], pack(id, one_more(attempts), due, body))
    redis.call('HDEL', KEYS[1], field)
  end
end
leave_marker(KEYS[4])
return #ARGV
