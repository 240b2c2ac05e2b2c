-- In front of every other script.

local function now_ms()  -- the server's clock, the only one there is
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- An entry is "id attempts due body": what there is of a job, wherever it lies.
local function pack(id, attempts, due, body)
  return id .. ' ' .. attempts .. ' ' .. string.format('%.0f', due) .. ' ' .. body
end

local function read(entry)
  local _, last, id, attempts, due = entry:find('^(%S+) (%d+) (%d+) ')
  if id then
    return id, tonumber(attempts), tonumber(due), entry:sub(last + 1)
  end
end

