--! use base record waiting blocks ending adding
-- Add tasks. ARGV[2]: msgpack [[id, spec, name, bucket, delay, at or false, idempotency key or false,
-- debounce or false: [key, window, max_wait or false, sequence or false]], …]. Returns index, id, index, id … (from 1) of the submissions that
-- stand as another task than themselves.

local others = {}
for i, task in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id = add(task, now + i - 1)
  if id ~= task[1] then
    others[#others + 1] = i
    others[#others + 1] = id
  end
end
tell_ended()
return others
