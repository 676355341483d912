--! use base waiting finding
-- Find tasks, newest first. ARGV[2]: msgpack of status letters, of p pending, s scheduled, r running, f failed, c completed,
-- d dead, x cancelled. ARGV[3]: msgpack of names, [] for all. ARGV[4], ARGV[5]: creation's bounds as ZRANGEBYSCORE takes
-- them. ARGV[6]: limit. ARGV[7]: offset.
-- Returns the time, then id, record, its entry in run, its progress, id, record …

local statuses, names = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local low, high = ARGV[4], ARGV[5]
local limit, offset = tonumber(ARGV[6]), tonumber(ARGV[7])
if #names == 0 then
  names = call('SMEMBERS', P .. 'names')
end

promote(1000)
local sources, found = sources_of(statuses, names, low, high), {}
local ceiling, skipped = descend_to(offset, sources, low, high)
collect(found, sources, low, ceiling, offset - skipped + limit)
for _, status in ipairs(statuses) do
  if status == 'r' then
    collect_running(found, names, low, high)
  end
end
table.sort(found, function(a, b)
  return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2])
end)

local reply = {string.format('%.0f', now)}
for i = offset - skipped + 1, math.min(#found, offset - skipped + limit) do
  local id = found[i][2]
  reply[#reply + 1] = id
  reply[#reply + 1] = call('GET', P .. 't:' .. id)
  reply[#reply + 1] = call('HGET', P .. 'run', id)
  reply[#reply + 1] = call('HGET', P .. 'prog', id)
end
return reply
