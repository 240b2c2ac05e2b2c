-- In front of every other script.

local function now_ms()  -- the server's clock, the only one there is
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- An entry is "id attempts due body": what there is of a job, wherever it lies.
local function pack(id, attempts, due, body)
  return id .. ' ' .. attempts .. ' ' .. string.format('%.0f', due) .. ' ' .. body
end

-- What lies here under a field. A stranger's bytes are the body of a job that never ran.
local function read(entry, field)
  local _, last, id, attempts, due = entry:find('^([%w_.:-]+) (%d+) (%-?%d+) ')
  if id and #attempts < 10 and #due < 17 then
    return id, tonumber(attempts), tonumber(due), entry:sub(last + 1)
  end
  return 'foreign-' .. field, 0, 0, entry
end

-- A full server refuses a script whose first write takes memory. This one takes none, and lets
-- those behind it pass: what moves or ends a job must work then, too.
local function write_nothing(hash)
  redis.call('HDEL', hash, '')
end

