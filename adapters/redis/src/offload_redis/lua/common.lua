-- In front of every other script.

local function now_us()  -- the server's clock, the only one there is
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function now_ms()
  return math.floor(now_us() / 1000)
end

-- Whether this may be a job's id, and every part of the program can carry it.
local function is_id(text)
  return #text < 256 and text:find('^[A-Za-z0-9_.:-]+$') ~= nil
end

-- An id that nothing else has, for what has none; several in one script differ by their number.
local function new_id(number)
  return string.format('foreign-%.0f-%d', now_us(), number)
end

-- An entry is "id attempts due body": what there is of a job, wherever it lies.
local function pack(id, attempts, due, body)
  if type(due) == 'number' then
    due = string.format('%.0f', due)
  end
  return id .. ' ' .. attempts .. ' ' .. due .. ' ' .. body
end

-- What lies here under a field. A stranger's bytes are the body of a job that never ran, and the
-- field is its id. The due time stays text: a number would lose digits of a long one.
local function read(entry, field)
  local _, last, id, attempts, due = entry:find('^([A-Za-z0-9_.:-]+) (%d+) (%-?%d+) ')
  if id and #id < 256 and #attempts < 10 and #due < 17 then
    return id, tonumber(attempts), due, entry:sub(last + 1)
  end
  return 'foreign-' .. field, 0, '0', entry
end

-- The count of runs after one more. A longer number than this could not be read again.
local function one_more(attempts)
  return math.min(attempts + 1, 999999999)
end

-- A full server refuses a script whose first write takes memory. This one takes none, and lets
-- those behind it pass: what moves or ends a job must work then, too.
local function write_nothing(hash)
  redis.call('HDEL', hash, 'offload-nothing')
end

-- The sessions lie by the time from which each is a suspect, half a lease after it was last extended.
-- A suspect lies by the time at which it ends, negative: it has half a lease more to be extended.
-- So after a standstill of the server all have this time, in whatever order their calls come, and
-- even if nobody waits any more for the answer to one.
local function hold(leases, session, lease, now)
  redis.call('ZREM', leases, session)  -- a full server would refuse to begin with what follows
  redis.call('ZADD', leases, now + math.floor(lease / 2), session)
end

-- Make suspects of the sessions in this range. A session's name ends with its lease in ms; one of
-- a stranger's, which doesn't, is given as much time as our own.
local function suspect(leases, from, to, lease, now)
  for _, session in ipairs(redis.call('ZRANGE', leases, from, to, 'BYSCORE')) do
    local digits = session:match('%-(%d+)$')
    local its_lease = digits and #digits < 9 and digits or lease
    redis.call('ZREM', leases, session)
    redis.call('ZADD', leases, -now - math.floor(its_lease / 2), session)
  end
end

-- Leave a marker for an idle worker. What else may lie under this key must not stop the script
-- halfway; the waker that finds it puts it aside.
local function leave_marker(key)
  redis.pcall('ZADD', key, 0, 'wake')
end

-- A command that only looks: what lies under a key of another type counts as nothing.
local function look(...)
  local found = redis.pcall(...)
  if type(found) == 'table' and found.err then
    return false
  end
  return found
end

