--! use base record waiting blocks ending
-- Turn a dead task into a new pending one. ARGV[2]: its id. ARGV[3]: the new id. Returns 1, or 0 where it isn't dead.

local old, new = ARGV[2], ARGV[3]
local revived = call('GET', P .. 't:' .. new)
if revived then
  local _, spec = readable(revived)
  return spec and spec[9] == old and 1 or 0
end
local record = call('GET', P .. 't:' .. old)
if not record or not readable(record) then
  return 0
end
local status, expires = ending_of(record)
if status ~= 'd' or expires <= now then
  return 0
end
local _, spec = forget(old, record, 'd')
if spec[6] then
  -- The key moves along, unless a newer task holds it by now.
  local key = scoped('k', spec[1], spec[6])
  if holder_of(key) == old then
    call('SET', key, pack(new, 0))
  else
    spec[6] = false
  end
end
spec[7], spec[9] = false, old
local head = {now, now, '', 0, 0, 0, 0}
call('SET', P .. 't:' .. new, pack(head, spec))
wait(new, lane_of(head, spec), now, now, 's')
return 1
