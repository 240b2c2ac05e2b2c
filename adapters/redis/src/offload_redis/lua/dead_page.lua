-- Dead letters of one queue, the oldest first.
-- KEYS dead, dead_jobs, dead_reasons
-- ARGV instant in ms and id behind which to begin, limit
-- Returns for each: instant, entry, reason.

local page = {}
local from, after, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])
local skipped = 0
while #page < 3 * limit do
  local found = redis.call(
    'ZRANGE', KEYS[1], from, '+inf', 'BYSCORE', 'LIMIT', skipped, 100, 'WITHSCORES')
  if #found == 0 then
    break
  end
  for i = 1, #found, 2 do
    local id, died = found[i], found[i + 1]
    if (tonumber(died) > tonumber(from) or id > after) and #page < 3 * limit then
      page[#page + 1] = died
      page[#page + 1] = redis.call('HGET', KEYS[2], id)
      page[#page + 1] = redis.call('HGET', KEYS[3], id)
    end
  end
  skipped = skipped + #found / 2
end
return page
