--! use base
-- Create or update a schedule. ARGV[2]: id. ARGV[3]: body. ARGV[4]: rule. ARGV[5]: next slot. ARGV[6]: creation.
-- Under an unchanged rule its next slot stays; its pause, its creation and its last run stay in any case. A changed rule
-- counts from its own creation.

local key = P .. 'sched:' .. ARGV[2]
local old = call('HMGET', key, 'rule', 'enabled')
call('HSET', key, 'body', ARGV[3], 'rule', ARGV[4])
if old[1] == ARGV[4] then
  return
end
call('HSET', key, 'next', ARGV[5], 'anchor', ARGV[6])
if not old[1] then
  call('HSET', key, 'enabled', '1', 'created', ARGV[6])
  call('ZADD', P .. 'sched', ARGV[6], ARGV[2])
end
if old[2] ~= '0' then
  call('ZADD', P .. 'sched:due', ARGV[5], ARGV[2])
end
