--! use base record blocks ending
-- Dead tasks, the latest first. ARGV[2]: limit. ARGV[3]: offset. Returns the time, then id, record, id, record …

drop_all_expired()
local first = tonumber(ARGV[3])
local reply = {string.format('%.0f', now)}
for _, id in ipairs(call('ZREVRANGE', P .. 'dead', first, first + tonumber(ARGV[2]) - 1)) do
  reply[#reply + 1] = id
  reply[#reply + 1] = call('GET', P .. 't:' .. id)
end
return reply
