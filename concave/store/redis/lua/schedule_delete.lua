--! use base record
-- Forget a schedule. ARGV[2]: its id. Returns 1, or 0 where there is none.

call('ZREM', P .. 'slots', ARGV[2])
call('ZREM', P .. 'sched', ARGV[2])
return call('DEL', P .. 'sched:' .. ARGV[2])
