--! use base record
-- Let leases run on. ARGV[2]: msgpack [[id, nonce, name], …]. ARGV[3]: for how long from now.
-- Returns a string with "1" for each lease that is held, "2" for each that is and whose task is to stop, "0" for others.

local leases = cmsgpack.unpack(ARGV[2])
local ids, marks, names, deadline = {}, {}, {}, whole(now + tonumber(ARGV[3]))
for i, l in ipairs(leases) do
  ids[i] = l[1]
end
go_through()
local held = call('HMGET', P .. 'run', unpack(ids))
local aborted = call('HMGET', P .. 'abort', unpack(ids))
for i, l in ipairs(leases) do
  if held[i] and run_of(held[i]).nonce == l[2] then
    call('ZADD', P .. 'l:' .. l[3], 'XX', deadline, l[1])
    names[l[3]] = true
    marks[i] = aborted[i] and '2' or '1'
  else
    marks[i] = '0'
  end
end
for name in pairs(names) do
  call('ZADD', P .. 'ldue', 'LT', deadline, name)
end
return table.concat(marks)
