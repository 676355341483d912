-- Carrying out decisions about leased tasks.

-- Take tasks out of what runs, some thousands at most, as far as their nonces still stand: groups [name, _, [id, …], [nonce, …]].
-- Of each group, for each task in turn, what its run was (packed), or false. A mark for each goes to `marks`.
-- Nothing is written before this removes: a server that is out of memory refuses a script's first write if it could need
-- more, and only that.
local function stop_running(groups, marks)
  local all, taken, gone, stopped, n = {}, {}, {}, {}, 0
  for _, group in ipairs(groups) do
    for _, id in ipairs(group[3]) do
      all[#all + 1] = id
    end
  end
  local held = #all > 0 and call('HMGET', P .. 'run', unpack(all)) or {}
  for g, group in ipairs(groups) do
    local runs, mine = {}, {}
    for i, id in ipairs(group[3]) do
      n = n + 1
      local run = held[n] and not taken[id] and run_of(held[n])
      local stands = run and run.nonce == group[4][i]
      runs[i], marks[#marks + 1] = stands and run.packed, stands and '1' or '0'
      if stands then
        taken[id], gone[#gone + 1], mine[#mine + 1] = true, id, id
      end
    end
    stopped[g] = {runs = runs, ids = mine}
  end
  if #gone > 0 then
    call('HDEL', P .. 'run', unpack(gone))
    for _, hash in ipairs({'abort', 'prog'}) do
      if call('EXISTS', P .. hash) == 1 then
        call('HDEL', P .. hash, unpack(gone))
      end
    end
  end
  for g, group in ipairs(groups) do
    local l = P .. 'l:' .. group[1]
    if #stopped[g].ids > 0 then
      call('ZREM', l, unpack(stopped[g].ids))
      if call('EXISTS', l) == 0 then
        call('ZREM', P .. 'ldue', group[1])
      end
    end
  end
  return stopped
end

local function complete_group(group, runs)
  local name, kept, ids, _, created, results = unpack(group)
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
      ends = ends + #done
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
    local runs = stop_running({{s[3], 0, {s[1]}, {s[2]}}}, marks)[1].runs
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
