-- What the user of this connection may not do.
-- ARGV for each wish: the command's name, a key or "", and arguments with which it would be called,
--   ended by an empty one
-- Returns the numbers of those that are refused, from 1; nothing before Redis 7, which can't tell.

local refused = {}
local number, i = 0, 1
while redis.acl_check_cmd and i <= #ARGV do
  local wish = {}
  while ARGV[i] ~= '' do
    wish[#wish + 1] = ARGV[i]
    i = i + 1
  end
  i = i + 1
  number = number + 1
  if not redis.acl_check_cmd(unpack(wish)) then
    refused[#refused + 1] = number
  end
end
return refused
