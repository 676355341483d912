--! use base record
-- Pause or resume a schedule. ARGV[2]: its id. ARGV[3]: the slot to resume at, or "" to pause. Returns 1, or 0 for none.

local key = P .. 'sched:' .. ARGV[2]
if call('EXISTS', key) == 0 then
  return 0
end
if ARGV[3] == '' then
  call('HSET', key, 'enabled', '0')
  call('ZREM', P .. 'slots', ARGV[2])
else
  call('HSET', key, 'enabled', '1', 'next', ARGV[3])
  call('ZADD', P .. 'slots', ARGV[3], ARGV[2])
end
return 1
