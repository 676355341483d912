--! use base record scheduling
-- What is due. ARGV[2]: limit. Returns the time, how long until the next that isn't due (-1: none), and rows.

local due = P .. 'slots'
local coming = call('ZRANGEBYSCORE', due, '(' .. string.format('%.0f', now), '+inf', 'WITHSCORES', 'LIMIT', '0', '1')
return {
  string.format('%.0f', now),
  coming[2] and tonumber(coming[2]) - now or -1,
  rows_of(call('ZRANGEBYSCORE', due, '-inf', now, 'LIMIT', '0', ARGV[2])),
}
