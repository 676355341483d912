--! use base record leasing
-- Tell the worker that runs a task to stop it. ARGV[2]: its id. Returns 1, or 0 where it doesn't run.

local run = call('HGET', P .. 'run', ARGV[2])
if not run or run == SPACER then -- whose id this is comes from outside, and may be anything
  return 0
end
go_through()
call('HSET', P .. 'abort', ARGV[2], '1')
publish('abort:' .. run_of(run).worker, ARGV[2])
return 1
