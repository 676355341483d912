--! use base record scheduling
-- Schedules. ARGV[2]: an id, or "" for all, by creation. Returns rows as row() makes them.

local ids = ARGV[2] ~= '' and {ARGV[2]} or call('ZRANGE', P .. 'sched', '0', '-1')
return rows_of(ids)
