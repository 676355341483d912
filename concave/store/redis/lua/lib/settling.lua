-- Carrying out decisions about leased tasks.

-- Mark which runs of groups still stand under the nonces they are given, a mark for each task in turn. What each run was
-- (packed), or false, is put beside its group, as `runs`. The ids of those that stand, and whether that is all.
local function see_which_stand(groups, marks)
  local ids, all, n, m = {}, true, 0, #marks
  for _, group in ipairs(groups) do
    append(ids, group[3])
  end
  local held = #ids > 0 and call('HMGET', P .. 'run', unpack(ids)) or {}
  for _, group in ipairs(groups) do
    local nonces, runs = group[4], {}
    for i = 1, #nonces do
      n = n + 1
      local run = held[n] and run_of(held[n])
      if run and run.nonce == nonces[i] then
        runs[i], marks[m + n] = run.packed, '1'
      else
        runs[i], marks[m + n], held[n], all = false, '0', false, false
      end
    end
    group.runs = runs
  end
  return all and ids or only(ids, held), all
end

-- Of several decisions about one task the first counts.
local function unmark_repeated(groups, marks)
  local seen, n = {}, #marks
  for _, group in ipairs(groups) do
    n = n - #group[3]
  end
  for _, group in ipairs(groups) do
    for i, id in ipairs(group[3]) do
      n = n + 1
      if group.runs[i] and seen[id] then
        group.runs[i], marks[n] = false, '0'
      end
      seen[id] = seen[id] or group.runs[i]
    end
  end
end

-- Take tasks out of what runs, some thousands at most, as far as their nonces still stand: groups [name, _, [id, …], [nonce, …], …].
-- Each is left with the rows of those that did, and gets `runs`: what each run was, packed. A mark for each task goes to `marks`.
-- Nothing is written before this removes: a server that is out of memory refuses a script's first write if it could need
-- more, and only that.
local function stop_running(groups, marks)
  local gone, all = see_which_stand(groups, marks)
  if #gone > 0 and leave_run(gone) < #gone then
    unmark_repeated(groups, marks)
    all = false
  end
  if not all then
    for _, group in ipairs(groups) do
      for column = 3, #group do
        group[column] = only(group[column], group.runs)
      end
      group.runs = only(group.runs, group.runs)
    end
  end
  for _, hash in ipairs({'abort', 'prog'}) do
    if #gone > 0 and call('EXISTS', P .. hash) == 1 then
      call('HDEL', P .. hash, unpack(gone))
    end
  end
  for _, group in ipairs(groups) do
    if #group[3] > 0 then
      leave_leases(group[1], group[3])
    end
  end
end

local function complete_group(group)
  local name, kept, ids, _, created, results = unpack(group)
  local runs, keys, few, all = group.runs, {}, #ids <= FEW, true
  for i = 1, #ids do
    keys[i] = P .. 't:' .. ids[i]
  end
  local records = call('MGET', unpack(keys))
  local ending, lasting = '\149' .. pack('c', now, now + kept), ms(kept)
  for i = 1, #ids do
    local record = records[i]
    if record then
      record = record .. ending .. runs[i] .. results[i]
      call('SET', keys[i], record, 'PX', lasting)
      if few then
        has_ended(ids[i], record)
      end
      if kept < DAY then
        remember(ids[i], ids[i], created[i])
      end
    end
    all = all and record
  end
  if not all then -- a server that evicts
    ids, created = only(ids, records), only(created, records)
  end
  if #ids > 0 then
    index_completed(name, kept, ids, created)
    if not few then
      ended[#ended + 1] = table.concat(ids, '\n')
      ends = ends + #ids
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
    local group = {s[3], 0, {s[1]}, {s[2]}}
    stop_running({group}, marks)
    local run = group.runs[1]
    local record = run and call('GET', P .. 't:' .. s[1])
    if not record then
      -- refused; or gone, on a server that evicts
    elseif s[4] == 'c' then
      complete_one(s, record, run)
    elseif s[4] == 'r' or s[4] == 'b' then
      again_later(s, record, cmsgpack.unpack(run))
    else
      give_up(s, record, cmsgpack.unpack(run))
    end
  end
end
