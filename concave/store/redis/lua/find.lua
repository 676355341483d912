--! use base record waiting blocks ending finding
-- Find tasks, newest first. ARGV[2]: msgpack of status letters, of p pending, s scheduled, r running, f failed, c completed,
-- d dead, x cancelled. ARGV[3]: msgpack of names, [] for all. ARGV[4], ARGV[5]: the first and the last moment of creation,
-- or "". ARGV[6]: limit. ARGV[7]: offset.
-- Returns the time, then id, record, its entry in run, its progress, id, record …

local statuses, names = cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3])
local low, high = tonumber(ARGV[4]) or -math.huge, tonumber(ARGV[5]) or math.huge
local limit, offset = tonumber(ARGV[6]), tonumber(ARGV[7])

drop_all_expired()
for _ = 1, 20 do
  promote(1000)
  if (first_score(P .. 'due') or math.huge) > now then
    break
  end
end
if #names == 0 then
  names = all_names()
end

local sources, running = sources_of(statuses, names, low, high), {}
for _, status in ipairs(statuses) do
  if status == 'r' then
    running = running_of(names, low, high)
  end
end
local top, skipped = descend_to(offset, low, high, sources, running)
local found = collect(sources, low, top or high, offset - skipped + limit)
for _, each in ipairs(running) do
  if not top or each[1] <= top then
    found[#found + 1] = each
  end
end
table.sort(found, newest_first)

local reply = {string.format('%.0f', now)}
for i = offset - skipped + 1, math.min(#found, offset - skipped + limit) do
  local id = found[i][2]
  reply[#reply + 1] = id
  reply[#reply + 1] = call('GET', P .. 't:' .. id)
  reply[#reply + 1] = call('HGET', P .. 'run', id)
  reply[#reply + 1] = call('HGET', P .. 'prog', id)
end
return reply
