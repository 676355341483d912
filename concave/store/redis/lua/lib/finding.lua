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

local function count(sources, low, high)
  local total = 0
  for _, key in ipairs(sources) do
    total = total + call('ZCOUNT', key, low, high)
  end
  return total
end

-- For a page far down: an upper bound on creation above which at most `offset` tasks lie, and how many do. Found by halving
-- the time between the bounds, so that the tasks before the page are counted and never read.
local function descend_to(offset, sources, low, high)
  if offset <= 1000 or #sources == 0 then
    return high, 0
  end
  local bottom, top = now, 0
  for _, key in ipairs(sources) do
    local first = tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
    local last = tonumber(call('ZREVRANGE', key, 0, 0, 'WITHSCORES')[2])
    bottom, top = math.min(bottom, first), math.max(top, last)
  end
  -- Above `top` lies nothing; at `bottom` everything.
  while top - bottom > 1 do
    local middle = math.floor((bottom + top) / 2)
    local above = '(' .. string.format('%.0f', middle)
    if count(sources, above, high) > offset then
      bottom = middle
    else
      top = middle
    end
  end
  local bound = string.format('%.0f', top)
  local skipped = count(sources, '(' .. bound, high)
  if skipped == 0 then
    return high, 0
  end
  return bound, skipped
end

-- Append [creation, id] of the `wanted` newest of each source.
local function collect(found, sources, low, ceiling, wanted)
  for _, key in ipairs(sources) do
    local pairs_ = call('ZREVRANGEBYSCORE', key, ceiling, low, 'WITHSCORES', 'LIMIT', 0, wanted)
    for i = 1, #pairs_, 2 do
      found[#found + 1] = {tonumber(pairs_[i + 1]), pairs_[i]}
    end
  end
end

local function within(created, low, high)
  local function bound(text, default)
    -- tonumber('inf') is a number: only what is behind a parenthesis is a bound.
    return string.sub(text, 1, 1) == '(' and tonumber(string.sub(text, 2)) or default
  end
  return created > bound(low, -math.huge) and created < bound(high, math.huge)
end

-- What runs has no index by creation: there is never more of it than the fleet has slots.
local function collect_running(found, names, low, high)
  for _, name in ipairs(names) do
    for _, id in ipairs(call('ZRANGE', P .. 'l:' .. name, 0, -1)) do
      local record = call('GET', P .. 't:' .. id)
      local readable, head = pcall(split, record)
      if readable then
        local created = head[1]
        if within(created, low, high) then
          found[#found + 1] = {created, id}
        end
      end
    end
  end
end
