-- Dead letters of one queue, the oldest first.
-- KEYS dead, dead_jobs, dead_reasons
-- ARGV score and id behind which to begin, limit, whether that id itself is still to come here
-- Returns for each: id, score, entry, reason.

-- The order of a sorted set: by bytes. Lua's own goes by the server's locale.
local function is_behind(id, after)
  for i = 1, math.min(#id, #after) do
    local byte, other = id:byte(i), after:byte(i)
    if byte ~= other then
      return byte > other
    end
  end
  return #id > #after
end

local page = {}
local from, after, limit, inclusive = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local skipped = 0
while #page < 4 * limit do
  local found = look(
    'ZRANGE', KEYS[1], from, '+inf', 'BYSCORE', 'LIMIT', skipped, 100, 'WITHSCORES') or {}
  if #found == 0 then
    break
  end
  for i = 1, #found, 2 do
    local id, died = found[i], found[i + 1]
    local is_next = tonumber(died) > tonumber(from) or is_behind(id, after)
      or inclusive and id == after
    if is_next and #page < 4 * limit then
      page[#page + 1] = id
      page[#page + 1] = died
      page[#page + 1] = look('HGET', KEYS[2], id)
      page[#page + 1] = look('HGET', KEYS[3], id)
    end
  end
  skipped = skipped + #found / 2
end
return page
