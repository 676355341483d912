-- Where tasks wait: lanes of what is due, lanes of what isn't yet.

local function bucket_of(priority)
  return math.min(math.floor(priority / 25), 3)
end

local function lane_of(head, spec)
  return bucket_of(spec[2]) .. (head[5] > 0 and 's' or 'n') .. ':' .. spec[1]
end

-- Let a task wait under `status` ('s' or 'f') until it is due, and tell idle workers where it concerns them: its lane was
-- empty, or nothing in it was due earlier.
local function wait(id, lane, created, due, status)
  local name = string.sub(lane, 4)
  if due > now then
    call('ZADD', P .. 'd:' .. lane, due, id)
    call('ZADD', P .. 'x:' .. status .. ':' .. name, created, id)
    if call('ZADD', P .. 'due', 'LT', 'CH', due, lane) == 1 then
      publish('work', name)
    end
    return
  end
  call('ZADD', P .. 'q:' .. lane, created, id)
  activate(lane)
end

local function leave_active_if_empty(lane)
  if call('EXISTS', P .. 'q:' .. lane) == 0 then
    call('ZREM', P .. 'a:' .. string.sub(lane, 1, 1), lane)
  end
end

local function stop_waiting(id, lane)
  local name = string.sub(lane, 4)
  if call('ZREM', P .. 'q:' .. lane, id) == 1 then
    leave_active_if_empty(lane)
  else
    -- If others are left, the index of lanes by due time may now be early; whoever promotes puts it right.
    call('ZREM', P .. 'd:' .. lane, id)
    if call('EXISTS', P .. 'd:' .. lane) == 0 then
      call('ZREM', P .. 'due', lane)
    end
    call('ZREM', P .. 'x:s:' .. name, id)
    call('ZREM', P .. 'x:f:' .. name, id)
  end
end

-- Tell idle workers of a name that waits and may run again, now that a slot under its cap came free.
local function tell_of_room(name)
  for bucket = 0, 3 do
    local active = P .. 'a:' .. bucket
    if call('ZSCORE', active, bucket .. 'n:' .. name) or call('ZSCORE', active, bucket .. 's:' .. name) then
      publish('work', name)
      return
    end
  end
end

-- Move up to `limit` tasks that have fallen due into their lanes, of 50 lanes at most.
local function promote(limit)
  for _, lane in ipairs(call('ZRANGEBYSCORE', P .. 'due', '-inf', stamp, 'LIMIT', '0', '50')) do
    local d, name = P .. 'd:' .. lane, string.sub(lane, 4)
    local ids = call('ZRANGEBYSCORE', d, '-inf', stamp, 'LIMIT', '0', limit)
    if #ids > 0 then
      limit = limit - #ids
      local scheduled = call('ZMSCORE', P .. 'x:s:' .. name, unpack(ids))
      local failed = call('ZMSCORE', P .. 'x:f:' .. name, unpack(ids))
      local add = {}
      for i, id in ipairs(ids) do
        add[2 * i - 1] = scheduled[i] or failed[i] or now
        add[2 * i] = id
      end
      call('ZREM', d, unpack(ids))
      call('ZREM', P .. 'x:s:' .. name, unpack(ids))
      call('ZREM', P .. 'x:f:' .. name, unpack(ids))
      call('ZADD', P .. 'q:' .. lane, unpack(add))
      activate(lane)
    end
    local first = first_score(d)
    if first then
      call('ZADD', P .. 'due', first, lane)
    else
      call('ZREM', P .. 'due', lane)
    end
    if limit <= 0 then
      return
    end
  end
end
