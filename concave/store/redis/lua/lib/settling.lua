-- Carrying out decisions about leased tasks.

-- Take up to some thousands of tasks of a name out of what runs, as far as their nonces still stand; for each in turn what
-- its run was (packed), or false. A mark for each goes to `marks`.
-- Nothing is written before this removes: a server that is out of memory refuses a script's first write if it could need
-- more, and only that.
local function stop_running(name, ids, nonces, marks)
  local held = call('HMGET', P .. 'run', unpack(ids))
  local runs, gone, taken, n = {}, {}, {}, #marks
  for i, id in ipairs(ids) do
    local run = held[i] and not taken[id] and run_of(held[i])
    if run and run.nonce == nonces[i] then
      taken[id], gone[#gone + 1] = true, id
      runs[i], marks[n + i] = run.packed, '1'
    else
      runs[i], marks[n + i] = false, '0'
    end
  end
  if #gone > 0 then
    call('HDEL', P .. 'run', unpack(gone))
    for _, hash in ipairs({'abort', 'prog'}) do
      if call('EXISTS', P .. hash) == 1 then
        call('HDEL', P .. hash, unpack(gone))
      end
    end
    call('ZREM', P .. 'l:' .. name, unpack(gone))
    if call('EXISTS', P .. 'l:' .. name) == 0 then
      call('ZREM', P .. 'ldue', name)
    end
  end
  return runs, #gone
end

local function complete_group(group, marks)
  local name, kept, ids, nonces, created, results = unpack(group)
  local runs, accepted = stop_running(name, ids, nonces, marks)
  if accepted == 0 then
    return
  end
  local keys, done, times, few = {}, {}, {}, #ids <= FEW
  for i, id in ipairs(ids) do
    keys[i] = P .. 't:' .. id
  end
  local records = call('MGET', unpack(keys))
  local ending, lasting = '\149' .. pack('c', now, now + kept), ms(kept)
  for i, id in ipairs(ids) do
    if runs[i] and records[i] then
      local record = records[i] .. ending .. runs[i] .. results[i]
      call('SET', keys[i], record, 'PX', lasting)
      if few then
        has_ended(id, record)
      end
      local n = #done + 1
      done[n], times[n] = id, created[i]
      if kept < DAY then
        remember(id, id, created[i])
      end
    end
  end
  if #done > 0 then
    index_completed(name, kept, done, times)
    if not few then
      ended[#ended + 1] = table.concat(done, '\n')
    end
  end
end

local function complete_one(s, record, run)
  local id, name, kept = s[1], s[3], s[6]
  record = record .. '\149' .. pack('c', now, now + kept) .. run .. s[5]
  call('SET', P .. 't:' .. id, record, 'PX', ms(kept))
  index_ended('c', name, kept, {s[7], id}, {id})
  settle_keys(id, name, s[8], s[9], s[10])
  if kept < DAY then
    remember(id, id, s[7])
  end
  has_ended(id, record)
end

-- Count a failure in the head and keep it as an event; the latest of them, should there be many.
local function failed(head, rest, failure, where)
  if not failure then
    return rest
  end
  head[4] = head[4] + 1
  rest = rest .. pack({'e', now, where[1], head[4], failure[1], failure[2]})
  if head[4] > MAX_FAILURES then
    local values = {cmsgpack.unpack(rest)}
    table.remove(values, 2)
    rest = pack(unpack(values))
  end
  return rest
end

local function again_later(s, record, where)
  local head, spec, rest = readable(record)
  if not head then
    return put_aside(s[1])
  end
  local due, status = now, 's'
  if s[4] == 'r' then
    rest = failed(head, rest, s[6], where)
    due, status = now + s[5], s[6] and 'f' or 's'
  else
    head[6] = head[6] + 1
  end
  if superseded(s[1], spec) then
    return finish(s[1], pack(head) .. rest, 'x', SUPERSEDED, where)
  end
  head[2], head[3], head[7] = due, status == 'f' and 'f' or '', 1
  call('SET', P .. 't:' .. s[1], pack(head) .. rest)
  wait(s[1], lane_of(head, spec), head[1], due, status)
end

local function give_up(s, record, where)
  local head, _, rest = readable(record)
  if not head then
    return put_aside(s[1])
  end
  rest = failed(head, rest, s[4] == 'd' and s[6], where)
  finish(s[1], pack(head) .. rest, s[4], s[5], where)
end

local function settle_rows(rows, marks, names)
  for _, s in ipairs(rows) do
    names[s[3]] = true
    local runs = stop_running(s[3], {s[1]}, {s[2]}, marks)
    local record = runs[1] and call('GET', P .. 't:' .. s[1])
    if not record then
      -- refused; or gone, on a server that evicts
    elseif s[4] == 'c' then
      complete_one(s, record, runs[1])
    elseif s[4] == 'r' or s[4] == 'b' then
      again_later(s, record, cmsgpack.unpack(runs[1]))
    else
      give_up(s, record, cmsgpack.unpack(runs[1]))
    end
  end
end
