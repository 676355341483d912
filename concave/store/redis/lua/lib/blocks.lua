-- Completed tasks in the indexes: those that were settled together are one member, a block. Only time removes a completed
-- task, and all of a block at one moment. An entry each takes three times the memory.

-- A block's tasks were created within a second, so that whoever looks for a moment knows which blocks may reach over it.
local SPAN = 1000000
-- Few tasks have an entry each: what is in blocks takes longer to count.
local FEWEST, MOST = 4, 100

-- A block of the tasks from `first` to `last`, and the creation of the newest.
local function block_of(ids, times, first, last, expires)
  local newest, oldest = times[first], times[first]
  for i = first + 1, last do
    newest, oldest = math.max(newest, times[i]), math.min(oldest, times[i])
  end
  local values = {}
  for i = first, last do
    values[#values + 1] = ids[i]
    values[#values + 1] = newest - times[i]
  end
  return pack(expires, last - first + 1, newest - oldest, unpack(values)), newest
end

local function in_order(ids, times)
  local order, ids_, times_ = {}, {}, {}
  for i, id in ipairs(ids) do
    order[i] = {times[i], id}
  end
  table.sort(order, function(a, b) return a[1] > b[1] end)
  for i, each in ipairs(order) do
    times_[i], ids_[i] = each[1], each[2]
  end
  return ids_, times_
end

-- Tasks as blocks and single ones: pairs of the newest creation and block, the newest creations; pairs of creation and id, ids.
local function blocks_of(ids, times, expires)
  local oldest, newest = math.huge, 0
  for _, created in ipairs(times) do
    oldest, newest = math.min(oldest, created), math.max(newest, created)
  end
  if newest - oldest > SPAN then
    ids, times = in_order(ids, times)
  end
  local blocks, tops, pairs_, single, first = {}, {}, {}, {}, 1
  while first <= #ids do
    local last = first
    while last < #ids and last - first + 1 < MOST and times[first] - times[last + 1] <= SPAN do
      last = last + 1
    end
    if last - first + 1 < FEWEST then
      for i = first, last do
        pairs_[#pairs_ + 1] = whole(times[i])
        pairs_[#pairs_ + 1] = ids[i]
        single[#single + 1] = ids[i]
      end
    else
      local block, top = block_of(ids, times, first, last, expires)
      tops[#tops + 1] = top
      blocks[#blocks + 1] = whole(top)
      blocks[#blocks + 1] = block
    end
    first = last + 1
  end
  return blocks, tops, pairs_, single
end

-- When a block expires, how many tasks it has and how much older than the newest the oldest is, without reading on; nothing
-- where it isn't a block: something else wrote it, or it is damaged.
local function head_of_block(block)
  local whole_, _, expires, size, span = pcall(cmsgpack.unpack_limit, block, 3)
  if whole_ and type(expires) == 'number' and type(size) == 'number' and type(span) == 'number' then
    return expires, size, span
  end
end

-- A block's values: its head, and then id and how much older it is than the newest, id and how much older …; none where it
-- isn't a block.
local function values_of_block(block)
  local _, size = head_of_block(block)
  local values = size and {values_of(block)} or {}
  if #values ~= 3 + 2 * (size or 0) then
    return {}
  end
  for i = 4, #values, 2 do
    if type(values[i]) ~= 'string' or type(values[i + 1]) ~= 'number' then
      return {}
    end
  end
  return values
end

-- Drop the blocks under `key` with this newest creation, so far as they have expired; of how many tasks.
local function drop_blocks(key, top)
  local dropped = 0
  if type(top) == 'number' then
    for _, block in ipairs(call('ZRANGEBYSCORE', key, whole(top), whole(top))) do
      local expires, size = head_of_block(block)
      if not expires or expires <= now then
        call('ZREM', key, block)
        dropped = dropped + (size or 1)
      end
    end
  end
  return dropped
end
