-- Put aside, as it is, what lies under our keys but is of another type.
-- KEYS some keys of one slot
-- ARGV the type of each
-- Returns for each that was put aside: its key, and its new one.

local moved = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key)
  kind = type(kind) == 'table' and kind.ok or kind
  if kind ~= 'none' and kind ~= ARGV[i] then
    -- In a cluster it must stay in the slot.
    local start = key:find('{', 1, true) and key or '{' .. key .. '}'
    local aside = string.format('%s:foreign-%.0f', start, now_us())
    redis.call('RENAME', key, aside)
    moved[#moved + 1] = key
    moved[#moved + 1] = aside
  end
end
return moved
