--! use base record
-- Create or update a schedule. ARGV[2]: id. ARGV[3]: body. ARGV[4]: rule. ARGV[5]: next slot. ARGV[6]: creation.
-- ARGV[7]: anchor. ARGV[8]: "1" if it is enabled, "0" if not.
-- Under an unchanged rule its next slot and its anchor stay; its pause, its creation and its last run stay in any case.

local key = P .. 'sched:' .. ARGV[2]
local old = call('HMGET', key, 'rule', 'enabled')
call('HSET', key, 'body', ARGV[3], 'rule', ARGV[4])
if old[1] == ARGV[4] then
  return
end
call('HSET', key, 'next', ARGV[5], 'anchor', ARGV[7])
if not old[1] then
  call('HSET', key, 'enabled', ARGV[8], 'created', ARGV[6])
  call('ZADD', P .. 'sched', ARGV[6], ARGV[2])
end
if (old[2] or ARGV[8]) == '1' then
  call('ZADD', P .. 'slots', ARGV[5], ARGV[2])
end
