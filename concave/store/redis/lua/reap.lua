--! use base waiting ending claiming
-- Take back the tasks whose leases ran out, 1,000 at most; how many.

local reaped = reap(1000)
tell_ended()
return reaped
