-- Carry out up to 100 verdicts on jobs that one session has leased.
-- KEYS running, leases, ready, later, wake, dead, dead_jobs, dead_reasons
-- ARGV session, then for each: field, verdict, value
--   acknowledge; release; retry: the delay in ms; dead: the reason
-- Returns the fields that were no longer the session's.

local function bury(field, entry, reason)
  local id, _, _, body = read(entry, field)
  local before = redis.call('HGET', KEYS[7], id)
  if before then
    local _, _, _, other = read(before, '')
    if other ~= body then
      id = 'foreign-' .. field  -- another job with the same id is dead already
    end
  end
  local now = now_ms()
  redis.call('ZADD', KEYS[6], now, id)
  redis.call('HSET', KEYS[8], id, reason)
  redis.call('HSET', KEYS[7], id, pack(id, 0, now, body))
end

local holds = redis.call('ZSCORE', KEYS[2], ARGV[1])
local foreign = {}
write_nothing(KEYS[1])
for i = 2, #ARGV, 3 do
  local field, verdict, value = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local entry = redis.call('HGET', KEYS[1], field)
  if entry then
    -- Where it goes comes first: nothing is lost if a key there can't be written to.
    if verdict == 'release' then
      redis.call('LPUSH', KEYS[3], entry)
      leave_marker(KEYS[5])
    elseif verdict == 'retry' then
      local id, attempts, _, body = read(entry, field)
      local due = now_ms() + 1 + value
      redis.call('ZADD', KEYS[4], due, pack(id, one_more(attempts), due, body))
      leave_marker(KEYS[5])
    elseif verdict == 'dead' then
      bury(field, entry, value)
    end
    redis.call('HDEL', KEYS[1], field)
  elseif not holds then
    foreign[#foreign + 1] = field
  end
end
return foreign
