-- Adding a task, on its own or as a recurring schedule's slot.

-- When a submission is due. A debounced one waits for its window, which counts from now and is bounded by `max_wait` from
-- the creation of the task that it makes or joins; it is never earlier than it was asked for.
local function due_of(task, created)
  local asked, debounce = task[6] or now + task[5], task[8]
  if not debounce then
    return asked
  end
  local window = now + debounce[2]
  if debounce[3] then
    window = math.min(window, created + debounce[3])
  end
  return math.max(asked, window)
end

-- Fold a submission into the task that waits under its debounce key, if one still does; that task's id.
local function fold(task, numbered)
  local name, idempotency = task[3], task[7]
  local key = scoped('b', name, task[8][1])
  local waiting = call('GET', key)
  local record = waiting and call('GET', P .. 't:' .. waiting)
  local head, spec
  if record then
    head, spec = readable(record)
  end
  local waits = head and call('HEXISTS', P .. 'run', waiting) == 0 and not ending_of(record)
  if not waits or head[7] ~= 0 then
    -- Once claimed, a task is no longer replaced, wherever it is by now. It must not run again after a newer one, though.
    if waits and numbered then
      stop_waiting(waiting, lane_of(head, spec))
      finish(waiting, record, 'x', SUPERSEDED, {'', 0})
    end
    call('SET', key, task[1])
    return nil
  end
  local _, new = unpack_one(task[2])
  local lane = lane_of(head, spec)
  stop_waiting(waiting, lane)
  head[2], spec[3] = due_of(task, head[1]), new[3]
  if idempotency then
    -- A task has one key of its own. Another's stands for it too, for as long as a key outlives completion.
    if not spec[6] then
      spec[6] = idempotency
      call('SET', scoped('k', name, idempotency), pack(waiting, 0))
    else
      local kept = (new[8] or KEPT)[4]
      if kept > 0 then
        call('SET', scoped('k', name, idempotency), pack(waiting, now + kept), 'PX', ms(kept))
      end
    end
  end
  call('SET', P .. 't:' .. waiting, pack(head, spec))
  wait(waiting, lane, head[1], head[2], 's')
  return waiting
end

-- Know until a day after it is due which task stands last under a debounce key, and the highest number there.
local function stands_last(task, sequence, standing, due, known_until)
  local expires = math.max(due, now, (known_until or 0) - DAY) + DAY
  call('SET', scoped('o', task[3], task[8][1]), pack(sequence, standing, expires), 'PX', ms(expires - now))
end

-- The id that stands for a submission that was added before and is still known; nil for a new one.
local function standing_for(id)
  if call('EXISTS', P .. 't:' .. id, P .. 's:' .. id) == 0 then
    return nil
  end
  local record, known = call('GET', P .. 't:' .. id), call('GET', P .. 's:' .. id)
  if record then
    local status, expires
    if readable(record) then
      status, expires = ending_of(record)
    end
    if not status or expires > now then
      return id
    end
  end
  if known then
    local standing, expires = values_of(known)
    if type(standing) == 'string' and type(expires) == 'number' and expires > now then
      return standing
    end
  end
  return nil
end

-- The id that stands for a submission. `created` is now, a microsecond apart within a batch, so that creation orders it.
local function add(task, created)
  local id, name, idempotency, debounce = task[1], task[3], task[7], task[8]
  local standing = standing_for(id)
  if standing then
    return standing
  end
  local highest, last, known_until, sequence
  if debounce then
    highest, last, known_until = newest_under(name, debounce[1])
    if highest and debounce[4] and debounce[4] <= highest then
      remember(id, last, now)
      return last
    end
    sequence = debounce[4] or highest
  end
  standing = idempotency and holder_of(scoped('k', name, idempotency)) or debounce and fold(task, sequence)
  local due = due_of(task, created)
  if sequence then
    stands_last(task, sequence, standing or id, due, known_until)
  end
  if standing then
    remember(id, standing, now)
    return standing
  end
  if idempotency then
    call('SET', scoped('k', name, idempotency), pack(id, 0))
  end
  call('SET', P .. 't:' .. id, pack({created, due, '', 0, 0, 0, 0}) .. task[2])
  wait(id, task[4] .. 'n:' .. name, created, due, 's')
  return id
end
