-- Reading one listing out of many indexes that are each ordered by creation.

-- The indexes, that have anything within the bounds, of these statuses (but running ones) and names. One of blocks may have
-- nothing there after all.
local function sources_of(statuses, names, low, high)
  local sources = {}
  local function consider(key, tasks)
    if call('ZCOUNT', key, whole(low), whole(tasks and high + SPAN or high)) > 0 then
      sources[#sources + 1] = {key = key, tasks = tasks}
    end
  end
  for _, name in ipairs(names) do
    for _, status in ipairs(statuses) do
      if status == 'p' then
        for bucket = 0, 3 do
          consider(P .. 'q:' .. bucket .. 'n:' .. name)
          consider(P .. 'q:' .. bucket .. 's:' .. name)
        end
      elseif status ~= 'r' then
        consider(P .. 'x:' .. status .. ':' .. name)
      end
      if status == 'c' then
        consider(P .. 'x:b:' .. name, P .. 'y:' .. name)
      end
    end
  end
  return sources
end

-- Every name that has a task: from what waits, what runs, and what has ended.
local function all_names()
  local names, seen = {}, {}
  local function see(name)
    if not seen[name] then
      seen[name] = true
      names[#names + 1] = name
    end
  end
  for bucket = 0, 3 do
    for _, lane in ipairs(call('ZRANGE', P .. 'a:' .. bucket, '0', '-1')) do
      see(string.sub(lane, 4))
    end
  end
  for _, lane in ipairs(call('ZRANGE', P .. 'due', '0', '-1')) do
    see(string.sub(lane, 4))
  end
  for _, name in ipairs(call('ZRANGE', P .. 'ldue', '0', '-1')) do
    see(name)
  end
  for _, batch in ipairs(call('ZRANGE', P .. 'ended', '0', '-1')) do
    see(string.match(batch, '^%a:%d+:(.*)$'))
  end
  return names
end

-- Blocks by their newest task, newest first, of those that may have tasks between two moments: `step` is called with the
-- creation of the newest and the head until it returns true.
local function each_block(key, low, high, step)
  -- By rank: Redis walks to an offset among scores, one by one.
  local at, some = call('ZCOUNT', key, '(' .. whole(high + SPAN), '+inf'), 4
  while true do
    local blocks = call('ZREVRANGE', key, at, at + some - 1, 'WITHSCORES')
    for i = 1, #blocks, 2 do
      local newest = tonumber(blocks[i + 1])
      if newest < low or step(newest, blocks[i]) then
        return
      end
    end
    if #blocks < 2 * some then
      return
    end
    at, some = at + some, math.min(2 * some, 1000)
  end
end

-- How many of a block's tasks were created after `low` and not after `high`.
local function count_within(source, head, newest, low, high)
  local total, tasks = 0, tasks_of_block(source.tasks, head)
  for i = 2, #tasks, 2 do
    local created = newest - tasks[i]
    if created > low and created <= high then
      total = total + 1
    end
  end
  return total
end

-- What is to be known for counting the tasks of blocks, of those that hold the newest `enough` tasks within the bounds; in
-- columns, of which `sums` is how many tasks up to `high` are in a block and those before it. Older ones are not known: those
-- at or below the moment that is returned.
local function size_up(source, low, high, enough)
  local heads, newests, oldests, sums = {}, {}, {}, {[0] = 0}
  source.heads, source.newests, source.oldests, source.sums = heads, newests, oldests, sums
  local n, last = 0, nil
  each_block(source.key, low, high, function(newest, head)
    local _, size, span = read_head(head)
    if size and newest - span <= high then
      n = n + 1
      heads[n], newests[n], oldests[n] = head, newest, newest - span
      sums[n] = sums[n - 1] + (newest <= high and size or count_within(source, head, newest, -math.huge, high))
    end
    last = newest
    return sums[n] > enough
  end)
  return sums[n] > enough and last or -math.huge
end

-- Unless it is to be exact, no block is read: one that reaches over the moment counts in full.
local function count_in_blocks(source, moment, high, exact)
  local heads, newests, oldests, sums = source.heads, source.newests, source.oldests, source.sums
  -- Blocks before `first` are too new to reach down to the moment.
  local first, above = 1, #newests + 1
  while first < above do
    local middle = math.floor((first + above) / 2)
    if newests[middle] > moment + SPAN then
      first = middle + 1
    else
      above = middle
    end
  end
  local total = sums[first - 1]
  for i = first, #newests do
    if newests[i] <= moment then
      break
    end
    if exact and oldests[i] <= moment then
      total = total + count_within(source, heads[i], newests[i], moment, high)
    else
      total = total + sums[i] - sums[i - 1]
    end
  end
  return total
end

-- How many tasks of the indexes were created after `moment`, or a few more unless that is to be `exact`, and of the running
-- ones, which stand newest first.
local function count_above(moment, high, sources, running, exact)
  local total, above = 0, '(' .. whole(moment)
  for _, source in ipairs(sources) do
    if source.tasks then
      total = total + count_in_blocks(source, moment, high, exact)
    else
      total = total + call('ZCOUNT', source.key, above, whole(high))
    end
  end
  for _, each in ipairs(running) do
    if each[1] <= moment then
      break
    end
    total = total + 1
  end
  return total
end

-- For a page far down: an upper bound on creation above which at most `offset` tasks lie, and how many do. Found by halving
-- the time between the bounds, so that the tasks before the page are counted and never read. nil where nothing is skipped.
local function descend_to(offset, low, high, sources, running)
  if offset <= 1000 then
    return nil, 0
  end
  local bottom, top, unknown = now, 0, -math.huge
  local function span(first, last)
    bottom, top = math.min(bottom, first), math.max(top, last)
  end
  for _, source in ipairs(sources) do
    span(first_score(source.key), tonumber(call('ZREVRANGE', source.key, '0', '0', 'WITHSCORES')[2]))
    if source.tasks then
      unknown = math.max(unknown, size_up(source, low, high, offset))
    end
  end
  if #running > 0 then
    span(running[#running][1], running[1][1])
  end
  -- Above `top` lies nothing. `bottom` may be too high, and then more is read.
  bottom = math.max(bottom, unknown)
  if count_above(bottom, high, sources, running) <= offset then
    top = bottom
  end
  while top - bottom > 1 do
    local middle = math.floor((bottom + top) / 2)
    if count_above(middle, high, sources, running) > offset then
      bottom = middle
    else
      top = middle
    end
  end
  local skipped = count_above(top, high, sources, running, true)
  if skipped == 0 then
    return nil, 0
  end
  return top, skipped
end

local function newest_first(a, b)
  return a[1] > b[1] or (a[1] == b[1] and a[2] > b[2])
end

-- [creation, id] of the `wanted` newest of all sources, and maybe a few more. Once that many are found, only what is newer
-- than the last of them is asked for: of many sources, most have little or nothing to add.
local function collect(sources, low, ceiling, wanted)
  local found, floor = {}, low
  local function raise_floor()
    if #found >= wanted and (floor == low or #found >= 1.5 * wanted) then
      table.sort(found, newest_first)
      for i = #found, wanted + 1, -1 do
        found[i] = nil
      end
      floor = found[wanted][1]
    end
  end
  local function add_block(key, newest, head)
    local _, _, span = read_head(head)
    if span and newest - span <= ceiling then
      local tasks = tasks_of_block(key, head)
      for i = 1, #tasks, 2 do
        local created = newest - tasks[i + 1]
        if created >= floor and created <= ceiling then
          found[#found + 1] = {created, tasks[i]}
        end
      end
      raise_floor()
    end
  end
  for _, source in ipairs(sources) do
    if source.tasks then
      each_block(source.key, floor, ceiling, function(newest, head)
        if newest < floor then
          return true -- it has risen meanwhile
        end
        add_block(source.tasks, newest, head)
      end)
    else
      local pairs_ =
        call('ZREVRANGEBYSCORE', source.key, whole(ceiling), whole(floor), 'WITHSCORES', 'LIMIT', 0, wanted)
      for i = 1, #pairs_, 2 do
        found[#found + 1] = {tonumber(pairs_[i + 1]), pairs_[i]}
      end
      raise_floor()
    end
  end
  return found
end

-- [creation, id] of what runs, newest first. It has no index by creation: there is never more than the fleet has slots.
local function running_of(names, low, high)
  local running = {}
  for _, name in ipairs(names) do
    for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'l:' .. name, '-inf', '(inf')) do
      local record = call('GET', P .. 't:' .. id)
      local head = record and readable(record)
      if head and head[1] >= low and head[1] <= high then
        running[#running + 1] = {head[1], id}
      end
    end
  end
  table.sort(running, newest_first)
  return running
end
