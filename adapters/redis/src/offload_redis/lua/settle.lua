-- Carry out up to 100 verdicts on jobs that one session has leased.
-- KEYS running, leases, ready, later, wake, dead, dead_jobs, dead_reasons
-- ARGV session, then for each: field, verdict, value
--   acknowledge; release; retry: the delay in ms; dead: the reason
-- Returns the fields that were no longer the session's.

local holds = redis.call('ZSCORE', KEYS[2], ARGV[1])
local foreign = {}
for i = 2, #ARGV, 3 do
  local field, verdict, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local entry = redis.call('HGET', KEYS[1], field)
  if entry then
    redis.call('HDEL', KEYS[1], field)
    if verdict == 'release' then
      redis.call('LPUSH', KEYS[3], entry)
      redis.call('ZADD', KEYS[5], 0, 'wake')
    elseif verdict == 'retry' then
      local id, attempts, _, body = read(entry, field)
      local due = now_ms() + 1 + value
      redis.call('ZADD', KEYS[4], due, pack(id, attempts + 1, due, body))
      redis.call('ZADD', KEYS[5], 0, 'wake')
    elseif verdict == 'dead' then
      local id, _, _, body = read(entry, field)
      local now = now_ms()
      redis.call('ZADD', KEYS[6], now, id)
      redis.call('HSET', KEYS[7], id, pack(id, 0, now, body))
      redis.call('HSET', KEYS[8], id, value)
    end
  elseif not holds then
    foreign[#foreign + 1] = field
  end
end
return foreign
