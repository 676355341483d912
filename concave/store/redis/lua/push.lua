--! use base leasing standing
-- Add tasks that are due at once and have no keys of their users: most of them, so that this loads no more than it needs.
-- ARGV[2]: msgpack [[lane, [id, …], [spec, …]], …], in the order of their submission. Returns 1, or nil where an id is known
-- already: then nothing was added, and add.lua says what stands for it.

local groups, known = cmsgpack.unpack(ARGV[2]), {}
for _, group in ipairs(groups) do
  for _, id in ipairs(group[2]) do
    known[#known + 1] = P .. 't:' .. id
    known[#known + 1] = P .. 's:' .. id
  end
end
if call('EXISTS', unpack(known)) > 0 then
  return nil
end

-- What the heads have in common: an array of seven; due now, no failure yet.
local head, rest = '\151', pack(now, '', 0, 0, 0, 0)
local created = now
for _, group in ipairs(groups) do
  local lane, ids, specs = unpack(group)
  local records, pairs_, entries = {}, {}, {}
  for i, id in ipairs(ids) do
    records[i] = head .. pack(created) .. rest .. specs[i]
    pairs_[2 * i - 1], pairs_[2 * i] = P .. 't:' .. id, records[i]
    entries[2 * i - 1], entries[2 * i] = whole(created), id
    created = created + 1
  end
  call('MSET', unpack(pairs_))
  group[3], group[4] = records, entries
end

-- How many lanes there are of each bucket, and the groups from the highest bucket on.
local lanes, ordered = {}, groups
if #groups > 1 then
  local seen = {}
  ordered = {}
  for bucket = 3, 0, -1 do
    for _, group in ipairs(groups) do
      local lane = group[1]
      if string.byte(lane) == 48 + bucket then
        ordered[#ordered + 1] = group
        if not seen[lane] then
          seen[lane], lanes[bucket] = true, (lanes[bucket] or 0) + 1
        end
      end
    end
  end
end

-- Nothing is handed out while something of a higher bucket waits: a claim is to choose among them.
local highest_waits
for _, group in ipairs(ordered) do
  local lane, ids, records, entries = unpack(group)
  local bucket, given = string.byte(lane) - 48, 0
  if not highest_waits or highest_waits == bucket then
    given = hand_out(lane, ids, records, lanes[bucket] or 1)
  end
  if given < #ids then
    highest_waits = highest_waits or bucket
    call('ZADD', P .. 'q:' .. lane, unpack(entries, 2 * given + 1))
    activate(lane)
  end
end
return 1
