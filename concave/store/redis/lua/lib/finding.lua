-- Reading one listing out of many indexes that are each ordered by creation.

-- The indexes, that have anything within the bounds, of these statuses (but running ones) and names.
local function sources_of(statuses, names, low, high)
  local sources = {}
  local function consider(key)
    if call('ZCOUNT', key, low, high) > 0 then
      sources[#sources + 1] = key
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
    for _, lane in ipairs(call('ZRANGE', P .. 'a:' .. bucket, 0, -1)) do
      see(string.sub(lane, 4))
    end
  end
  for _, lane in ipairs(call('ZRANGE', P .. 'due', 0, -1)) do
    see(string.sub(lane, 4))
  end
  for _, name in ipairs(call('ZRANGE', P .. 'ldue', 0, -1)) do
    see(name)
  end
  for _, batch in ipairs(call('ZRANGE', P .. 'ended', 0, -1)) do
    see(string.match(batch, '^%a:%d+:(.*)$'))
  end
  return names
end

-- How many tasks of the indexes were created after `moment`, and of the running ones, which stand newest first.
local function count_above(moment, high, sources, running)
  local total, above = 0, '(' .. string.format('%.0f', moment)
  for _, key in ipairs(sources) do
    total = total + call('ZCOUNT', key, above, high)
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
local function descend_to(offset, high, sources, running)
  if offset <= 1000 then
    return nil, 0
  end
  local bottom, top = now, 0
  local function span(first, last)
    bottom, top = math.min(bottom, first), math.max(top, last)
  end
  for _, key in ipairs(sources) do
    span(first_score(key), tonumber(call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2]))
  end
  if #running > 0 then
    span(running[#running][1], running[1][1])
  end
  -- Above `top` lies nothing; at or above `bottom` everything.
  while top - bottom > 1 do
    local middle = math.floor((bottom + top) / 2)
    if count_above(middle, high, sources, running) > offset then
      bottom = middle
    else
      top = middle
    end
  end
  local skipped = count_above(top, high, sources, running)
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
  for _, key in ipairs(sources) do
    local pairs_ = call('ZREVRANGEBYSCORE', key, ceiling, floor, 'WITHSCORES', 'LIMIT', 0, wanted)
    for i = 1, #pairs_, 2 do
      found[#found + 1] = {tonumber(pairs_[i + 1]), pairs_[i]}
    end
    if #found >= wanted and (floor == low or #found >= 1.5 * wanted) then
      table.sort(found, newest_first)
      for i = #found, wanted + 1, -1 do
        found[i] = nil
      end
      floor = string.format('%.0f', found[wanted][1])
    end
  end
  return found
end

local function within(created, low, high)
  local function bound(text, default)
    -- tonumber('inf') is a number: only what is behind a parenthesis is a bound.
    return string.sub(text, 1, 1) == '(' and tonumber(string.sub(text, 2)) or default
  end
  return created > bound(low, -math.huge) and created < bound(high, math.huge)
end

-- [creation, id] of what runs, newest first. It has no index by creation: there is never more than the fleet has slots.
local function running_of(names, low, high)
  local running = {}
  for _, name in ipairs(names) do
    for _, id in ipairs(call('ZRANGE', P .. 'l:' .. name, 0, -1)) do
      local record = call('GET', P .. 't:' .. id)
      local head = record and readable(record)
      if head and within(head[1], low, high) then
        running[#running + 1] = {head[1], id}
      end
    end
  end
  table.sort(running, newest_first)
  return running
end
