--! use base record waiting blocks ending
-- Cancel a task that waits. ARGV[2]: its id. Returns 1, or 0 for one that runs, has ended or is unknown.

local id = ARGV[2]
local record = call('GET', P .. 't:' .. id)
local head, spec
if record then
  head, spec = readable(record)
end
if not head or call('HEXISTS', P .. 'run', id) == 1 or ending_of(record) then
  return 0
end
stop_waiting(id, lane_of(head, spec))
finish(id, record, 'x', '', {'', 0})
tell_ended()
return 1
