--! use base record
-- Keep a running task's progress. ARGV[2]: id. ARGV[3]: nonce. ARGV[4]: progress. Returns 1, or 0 for a stale token.

local run = call('HGET', P .. 'run', ARGV[2])
if not run or string.sub(run, 1, 16) ~= ARGV[3] then
  return 0
end
call('HSET', P .. 'prog', ARGV[2], ARGV[4])
return 1
