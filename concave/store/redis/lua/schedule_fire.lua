--! use base record waiting blocks ending adding
-- Fire a schedule if it still stands where the caller saw it. ARGV[2]: id. ARGV[3]: the slot it must stand at. ARGV[4]: the
-- slot it moves to. ARGV[5]: its last run, or "" to leave it. ARGV[6]: tasks, as for add.lua. Returns 1, or 0.

local key = P .. 'sched:' .. ARGV[2]
local row = call('HMGET', key, 'next', 'enabled')
if row[1] ~= ARGV[3] or row[2] ~= '1' then
  return 0
end
call('HSET', key, 'next', ARGV[4])
if ARGV[5] ~= '' then
  call('HSET', key, 'last', ARGV[5])
end
call('ZADD', P .. 'slots', ARGV[4], ARGV[2])
for i, task in ipairs(cmsgpack.unpack(ARGV[6])) do
  add(task, now + i - 1)
end
return 1
