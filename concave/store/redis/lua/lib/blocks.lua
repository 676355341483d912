-- Completed tasks in the indexes: those that were settled together are one member, a block. Only time removes a completed
-- task, and all of a block at one moment. An entry each takes four times the memory. The member is the block's head, which
-- suffices for counting; its tasks are apart from it, since a page far down passes over thousands of blocks.

-- A block's tasks were created within a second, so that whoever looks for a moment knows which blocks may reach over it.
local SPAN = 1000000
-- Few tasks have an entry each: what is in blocks takes longer to count.
local FEWEST, MOST = 4, 100

-- The lowest and the highest of some times.
local function bounds_of(times, first, last)
  local lowest, highest = times[first], times[first]
  for i = first + 1, last do
    local time = times[i]
    if time < lowest then
      lowest = time
    elseif time > highest then
      highest = time
    end
  end
  return lowest, highest
end

-- A block of the tasks from `first` to `last`: its head, its tasks, and the creation of the newest.
local function block_of(ids, times, first, last, expires)
  local oldest, newest = bounds_of(times, first, last)
  local tasks = {}
  for i = first, last do
    local n = 2 * (i - first)
    tasks[n + 1], tasks[n + 2] = ids[i], newest - times[i]
  end
  -- With an id, heads of the same moments differ.
  return pack(expires, last - first + 1, newest - oldest, ids[first]), pack(unpack(tasks)), newest
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

-- Tasks in blocks and single ones. Of blocks, pairs of the newest creation and head, pairs of head and tasks, and the newest
-- creations; of single tasks, pairs of creation and id, and the ids.
local function blocks_of(ids, times, expires)
  local oldest, newest = bounds_of(times, 1, #times)
  if newest - oldest > SPAN then
    ids, times = in_order(ids, times)
  end
  local blocks, single, first = {heads = {}, tasks = {}, tops = {}}, {pairs = {}, ids = {}}, 1
  while first <= #ids do
    local last = first
    while last < #ids and last - first + 1 < MOST and times[first] - times[last + 1] <= SPAN do
      last = last + 1
    end
    if last - first + 1 < FEWEST then
      for i = first, last do
        single.pairs[#single.pairs + 1] = whole(times[i])
        single.pairs[#single.pairs + 1] = ids[i]
        single.ids[#single.ids + 1] = ids[i]
      end
    else
      local head, tasks, top = block_of(ids, times, first, last, expires)
      local n = #blocks.tops + 1
      blocks.tops[n] = top
      blocks.heads[2 * n - 1], blocks.heads[2 * n] = whole(top), head
      blocks.tasks[2 * n - 1], blocks.tasks[2 * n] = head, tasks
    end
    first = last + 1
  end
  return blocks, single
end

-- When a block expires, how many tasks it has and how much older than the newest the oldest is; nothing where it isn't the
-- head of a block: something else wrote it, or it is damaged.
local function read_head(head)
  local read, _, expires, size, span = pcall(cmsgpack.unpack_limit, head, 3)
  if read and type(expires) == 'number' and type(size) == 'number' and type(span) == 'number' then
    return expires, size, span
  end
end

-- A block's tasks: id and how much older than the newest it is, id and how much older …; none where nobody can read them.
local function tasks_of_block(key, head)
  local tasks = {values_of(call('HGET', key, head) or '')}
  for i = 1, #tasks, 2 do
    if type(tasks[i]) ~= 'string' or type(tasks[i + 1]) ~= 'number' then
      return {}
    end
  end
  return tasks
end

-- Drop the blocks of a name with this newest creation, so far as they have expired; of how many tasks.
local function drop_blocks(name, top)
  local dropped, x = 0, P .. 'x:b:' .. name
  if type(top) == 'number' then
    for _, head in ipairs(call('ZRANGEBYSCORE', x, whole(top), whole(top))) do
      local expires, size = read_head(head)
      if not expires or expires <= now then
        call('ZREM', x, head)
        call('HDEL', P .. 'y:' .. name, head)
        dropped = dropped + (size or 1)
      end
    end
  end
  return dropped
end
