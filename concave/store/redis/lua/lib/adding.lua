-- Adding a task, on its own or as a recurring schedule's slot.

-- Fold a submission into the task that waits under its debounce key, if one still does; that task's id.
local function fold(task, debounce)
  local key = scoped('b', task[3], debounce[1])
  local waiting = call('GET', key)
  local record = waiting and call('GET', P .. 't:' .. waiting)
  if record then
    local head, spec = split(record)
    -- Once claimed, a task is no longer replaced, wherever it is by now.
    local unclaimed = head[7] == 0 and call('HEXISTS', P .. 'run', waiting) == 0 and not ending_of(record)
    if unclaimed then
      local _, new = unpack_one(task[2])
      local lane = lane_of(head, spec)
      stop_waiting(waiting, lane)
      head[2] = now + debounce[2]
      if debounce[3] then
        head[2] = math.max(now, math.min(head[2], head[1] + debounce[3]))
      end
      spec[3] = new[3]
      call('SET', P .. 't:' .. waiting, pack(head, spec))
      wait(waiting, lane, head[1], head[2], 's')
      return waiting
    end
  end
  call('SET', key, task[1])
  return nil
end

-- The id that stands for a submission. `created` is now, a microsecond apart within a batch, so that creation orders it.
local function add(task, created)
  local id, name, idempotency, debounce = task[1], task[3], task[7], task[8]
  if call('EXISTS', P .. 't:' .. id, P .. 's:' .. id) > 0 then
    local record, known = call('GET', P .. 't:' .. id), call('GET', P .. 's:' .. id)
    local status, gone_at
    if record then
      status, gone_at = ending_of(record)
    end
    if record and (not status or gone_at > now) then
      return id
    end
    if known then
      local standing, expires = cmsgpack.unpack(known)
      if expires > now then
        return standing
      end
    end
  end
  if idempotency then
    local key = scoped('k', name, idempotency)
    local holder = holder_of(key)
    if holder then
      remember(id, holder, now)
      return holder
    end
    call('SET', key, pack(id, 0))
  end
  local due = task[6] or (created + task[5])
  if debounce then
    local waiting = fold(task, debounce)
    if waiting then
      remember(id, waiting, now)
      return waiting
    end
    due = math.max(due, now + debounce[2])
  end
  call('SET', P .. 't:' .. id, pack({created, due, '', 0, 0, 0, 0}) .. task[2])
  wait(id, task[4] .. 'n:' .. name, created, task[5] == 0 and not task[6] and not debounce and now or due, 's')
  call('SADD', P .. 'names', name)
  return id
end

-- The names last longer than the longest that anything of theirs is usually kept.
local function keep_names()
  keep_for(P .. 'names', 100 * DAY)
end
