-- Lease up to 100 jobs that are due.
-- KEYS ready, later, running, leases, wake, numbers
-- ARGV session, lease in ms, number of the first job, limit, "begin" for a new session
-- Returns 0 if the session was ended, else 1; ms to the end of the next suspect, and to the next
-- due job (or -1); the entries, and the number of the job that comes next. The entries are filed
-- under session.number, counting up from the first.

local session, lease, first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
write_nothing(KEYS[3])

-- Nothing is taken by a suspect: its lease is extended in this very step, or the session has been
-- ended by another worker, and takes no more. A new one is refused, too, when its call comes again
-- after it has been ended: what it took the first time lies here still.
local score = redis.call('ZSCORE', KEYS[4], session)
if not score and (ARGV[5] ~= 'begin' or redis.call('HEXISTS', KEYS[3], session .. '.1') == 1) then
  return {0, -1, -1, {}, first}
end
if not score or tonumber(score) <= now then
  hold(KEYS[4], session, lease, now)
end
suspect(KEYS[4], 0, now, lease, now)

local entries
local number = tonumber(redis.call('HGET', KEYS[6], session) or 1)
if not number or number ~= math.floor(number) or number > 1e13 then
  number = 1  -- somebody else wrote it
end
if first < number then
  -- This call came before, and its answer was lost: give the same one, or what is left of it.
  local fields = {}
  for i = 0, 99 do
    fields[i + 1] = session .. '.' .. (first + i)
  end
  entries = {}
  for _, entry in ipairs(redis.call('HMGET', KEYS[3], unpack(fields))) do
    if not entry then
      break
    end
    entries[#entries + 1] = entry
  end
else
  local due = redis.call('ZRANGE', KEYS[2], '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
  if #due > 0 then
    redis.call('RPUSH', KEYS[1], unpack(due))
    redis.call('ZREMRANGEBYRANK', KEYS[2], 0, #due - 1)
  end
  entries = {}
  if redis.call('EXISTS', KEYS[1]) == 1 then
    -- Nothing of a script is undone when a command in it is refused. So this comes first.
    redis.call('HSET', KEYS[6], session, first)
    entries = redis.call('LPOP', KEYS[1], ARGV[4]) or {}
  end
  number = first + #entries
  if #entries > 0 then
    local filed = {}
    for i, entry in ipairs(entries) do
      filed[2 * i - 1] = session .. '.' .. (first + i - 1)
      filed[2 * i] = entry
    end
    local answer = redis.pcall('HSET', KEYS[3], unpack(filed))
    if type(answer) == 'table' and answer.err then
      for i = #entries, 1, -1 do
        redis.call('LPUSH', KEYS[1], entries[i])
      end
      return answer
    end
    redis.call('HSET', KEYS[6], session, number)
  end
end

if #entries > 0 and redis.call('EXISTS', KEYS[1]) == 1 then
  leave_marker(KEYS[5])  -- there is more, for whoever is idle
end
local next_end = -1
local first_suspect =
  redis.call('ZRANGE', KEYS[4], '(0', '-inf', 'BYSCORE', 'REV', 'LIMIT', 0, 1, 'WITHSCORES')
if first_suspect[2] then
  next_end = math.min(math.max(0, -first_suspect[2] - now), 1e12)
end
local wait = -1
local head = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
if head[2] then
  wait = math.min(math.max(0, head[2] - now), 1e12)  -- an infinite one is no number to Redis
end
return {1, next_end, wait, entries, number}
