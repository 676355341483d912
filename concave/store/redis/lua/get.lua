--! use base record
-- One task. ARGV[2]: its id. Returns the time, its record or nil, its entry in run or nil, its progress or nil.

local id = ARGV[2]
return {
  string.format('%.0f', now),
  call('GET', P .. 't:' .. id),
  call('HGET', P .. 'run', id),
  call('HGET', P .. 'prog', id),
}
