-- Store up to 100 jobs of one queue.
-- KEYS ready, later, wake, sent
-- ARGV number of this call, of the first and of the last one that are sent together;
--   then for each job: id, due, body
--   due is "" for now, "+500" for 500 ms from now, or an instant in ms.
-- Returns 1 if this server has never heard of the performer before, else 0; or, with nothing
-- stored, -1 if the call came before the one that it follows, and must be sent again, and -2 if
-- the performer is said to have sent more than it has: somebody else wrote that.

-- The performer numbers its calls, so that one that comes twice is known.
local number, first = tonumber(ARGV[1]), tonumber(ARGV[2])
local last = tonumber(redis.call('GET', KEYS[4]) or -1)
if not last or last ~= math.floor(last) then
  last = -1
end
if last >= number then
  return last > tonumber(ARGV[3]) and -2 or 0
end
if number > first and last ~= number - 1 then
  return -1
end

local now = now_ms()
if #ARGV == 6 and ARGV[5] == '' then  -- one job for now, as most calls bring: the same, sooner
  if redis.call('RPUSH', KEYS[1], pack(ARGV[4], 0, now, ARGV[6])) == 1 then
    leave_marker(KEYS[3])
  end
  redis.call('SET', KEYS[4], number, 'EX', 3600)
  return last < 0 and 1 or 0
end

local ready, later = {}, {}
local first_due
for i = 4, #ARGV, 3 do
  local id, due, body = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if due == '' then
    due = now
  elseif due:sub(1, 1) == '+' then
    due = now + 1 + tonumber(due)  -- the millisecond that is now has begun already
  else
    due = tonumber(due)
  end
  local entry = pack(id, 0, due, body)
  if due > now then
    later[#later + 1] = due
    later[#later + 1] = entry
    if not first_due or due < first_due then
      first_due = due
    end
  else
    ready[#ready + 1] = entry
  end
end

-- Looked at first: what must fail fails before anything is stored, since it is sent again.
local head = first_due and redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')
-- Where there was something ready before, somebody has been woken for it, who sees to the rest.
local wake = #ready > 0 and redis.call('RPUSH', KEYS[1], unpack(ready)) == #ready
if first_due then
  wake = wake or not head[2] or first_due < tonumber(head[2])
  redis.call('ZADD', KEYS[2], unpack(later))
end
if wake then
  leave_marker(KEYS[3])
end
redis.call('SET', KEYS[4], number, 'EX', 3600)
return last < 0 and 1 or 0
