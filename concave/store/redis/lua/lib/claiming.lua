-- Taking back what dead workers held, and leasing what is due.

-- A worker died with this task: wait as a suspect, or die of too many crashes.
local function crash(id, name)
  local run = call('HGET', P .. 'run', id)
  local aborted = call('HDEL', P .. 'abort', id) == 1
  leave_leases(name, {id})
  leave_run({id})
  call('HDEL', P .. 'prog', id)
  local record = call('GET', P .. 't:' .. id)
  if not record then
    return
  end
  local head, spec, rest = readable(record)
  if not head then
    put_aside(id)
    tell_of_room(name)
    return
  end
  local where = run and cmsgpack.unpack(run_of(run).packed) or {'', 0}
  head[5] = head[5] + 1
  head[7] = 1
  record = pack(head) .. rest
  if aborted then
    finish(id, record, 'x', 'cancelled while it ran, and its worker died', where)
  elseif head[5] >= spec[5] then
    finish(id, record, 'd', string.format('its worker died %d times while it ran (max_crashes)', head[5]), where)
  elseif superseded(id, spec) then
    finish(id, record, 'x', SUPERSEDED, where)
  else
    head[2], head[3] = now, ''
    call('SET', P .. 't:' .. id, pack(head) .. rest)
    wait(id, lane_of(head, spec), head[1], now, 's')
  end
  tell_of_room(name)
end

-- Take back up to `limit` tasks whose leases ran out, of 50 names at most; how many.
local function reap(limit)
  local reaped = 0
  for _, name in ipairs(call('ZRANGEBYSCORE', P .. 'ldue', '-inf', stamp, 'LIMIT', '0', '50')) do
    local l = P .. 'l:' .. name
    for _, id in ipairs(call('ZRANGEBYSCORE', l, '-inf', stamp, 'LIMIT', '0', limit - reaped)) do
      crash(id, name)
      reaped = reaped + 1
    end
    local first = first_score(l)
    if first then
      call('ZADD', P .. 'ldue', first, name)
    else
      call('ZREM', P .. 'ldue', name) -- where a server that evicts took them, they didn't leave one by one
    end
    if reaped >= limit then
      break
    end
  end
  return reaped
end

-- Take up to `wanted` ids from a lane that has some.
local function take(lane, wanted)
  local q, active = P .. 'q:' .. lane, P .. 'a:' .. string.sub(lane, 1, 1)
  local ids = call('ZRANGE', q, '0', wanted) -- and one more, which tells whether any are left
  local left = table.remove(ids, wanted + 1)
  if #ids > 0 then
    call('ZREMRANGEBYRANK', q, '0', #ids - 1)
  end
  if left then
    call('ZADD', active, 'XX', stamp, lane)
  else
    call('ZREM', active, lane)
  end
  return ids
end

-- Names that share a claim: each costs a dozen commands, and many are served by the claims that follow, a moment later. Where a
-- claim is small, its tasks may run for long, and more names have one.
local function names_at_once(limit)
  return limit > 32 and 5 or 16
end

-- Of the first `size` lanes of a bucket, the longest unserved first, those that are new to `seen` and of a name in `caps`; and whether
-- there are no more. What a claim takes from goes to the end, so that those not seen yet move up.
local function next_lanes(bucket, size, seen, caps)
  local lanes, found = call('ZRANGE', P .. 'a:' .. bucket, '0', size - 1), {}
  for _, lane in ipairs(lanes) do
    if not seen[lane] and caps[string.sub(lane, 4)] then
      found[#found + 1] = lane
    end
    seen[lane] = true
  end
  return found, #lanes < size
end

-- Choose up to `limit` ids: by bucket, names in turn (the longest unserved first), oldest first within a name.
-- Returns them in that order, and by name.
local function choose(limit, caps, suspects)
  local order, chosen = {}, {}
  for bucket = 3, 0, -1 do
    local lanes, seen, size, is_all = {}, {}, 2 * names_at_once(limit), false
    while limit > 0 do
      -- Only as many as it takes: to look through hundreds costs as much as to lease a dozen tasks.
      while not is_all and #lanes < names_at_once(limit) do
        local unserved
        unserved, is_all = next_lanes(bucket, size, seen, caps)
        for _, lane in ipairs(lanes) do
          unserved[#unserved + 1] = lane
        end
        lanes, size = unserved, size * 2
      end
      if #lanes == 0 then
        break
      end
      -- Not one task of each name where there are many. The others come first next time.
      local quota, again = math.ceil(limit / math.min(#lanes, names_at_once(limit))), {}
      for _, lane in ipairs(lanes) do
        if limit <= 0 then
          break
        end
        local name, suspect = string.sub(lane, 4), string.sub(lane, 2, 2) == 's'
        local cap, wanted = caps[name], math.min(quota, limit)
        if cap > 0 then
          local taken = chosen[name] and #chosen[name] or 0
          wanted = math.min(wanted, cap - taken - leased(name))
        end
        if suspect then
          wanted = math.min(wanted, suspects)
        end
        if wanted > 0 then
          local ids = take(lane, wanted)
          append(order, ids)
          if chosen[name] then
            append(chosen[name], ids)
          elseif #ids > 0 then
            chosen[name] = ids
          end
          limit = limit - #ids
          if suspect then
            suspects = suspects - #ids
          end
          if #ids == quota then
            again[#again + 1] = lane
          end
        end
      end
      lanes = again
    end
    if limit <= 0 then
      break
    end
  end
  return order, chosen
end

-- Of what was chosen, without those tasks whose records are gone: a server that evicts, or a restart without persistence, leaves
-- nothing to run.
local function those_there(order, chosen, records)
  local there, left = {}, {}
  for i = 1, #order do
    there[order[i]] = records[i]
  end
  for name, ids in pairs(chosen) do
    local found = {}
    for i = 1, #ids do
      found[i] = there[ids[i]]
    end
    ids = only(ids, found)
    if #ids > 0 then
      left[name] = ids
    end
  end
  return only(order, records), left, only(records, records)
end

-- Lease what was chosen, in one step for all names: each costs a dozen commands as it is. The ids that are leased, and their records.
local function lease(order, chosen, claim, run)
  local keys, records, all = {}, {}, true
  for i = 1, #order do
    keys[i] = P .. 't:' .. order[i]
  end
  if #keys > 0 then
    records = call('MGET', unpack(keys))
  end
  for i = 1, #order do
    all = all and records[i]
  end
  if not all then
    order, chosen, records = those_there(order, chosen, records)
  end
  hold(chosen, claim[3], run)
  return order, records
end

-- The last claim on the line of a claim: its nonce, its number, and the ids that it leased.
local function last_claim(worker, line, nonce, number)
  local seen = call('GET', last_claim_key(worker, line, nonce, number))
  local number, ids = values_of(seen and string.sub(seen, 17) or '')
  return seen and string.sub(seen, 1, 16), tonumber(number) or 0, type(ids) == 'table' and ids or {}
end

-- The same claim again: what it leased the first time, as far as it is still held, and when that was.
local function again(nonce, ids, reply)
  local time_at = #reply
  reply[#reply + 1] = 0
  reply[#reply + 1] = 0
  for _, id in ipairs(ids) do
    local run = call('HGET', P .. 'run', id)
    local record = call('GET', P .. 't:' .. id)
    if run and record and run_of(run).nonce == nonce then
      reply[time_at] = whole(run_of(run).started)
      reply[#reply + 1] = id
      reply[#reply + 1] = record
    end
  end
end

-- claim: [worker, limit, lease, nonce, suspects, line, desk, stands, number]; caps: name -> max_concurrency or 0; names: as stand()
-- takes them. `reply` ends with the time.
-- Appends idle_for (-1: nothing known to come), whether it stands (1 or 0), and then id, record, id, record … to it.
local function claim_into(reply, claim, caps, names)
  local nonce, number = claim[4], claim[9]
  go_through()
  reap(100)
  promote(1000)
  local last, last_number, last_ids = last_claim(claim[1], claim[6], nonce, number)
  if last and number < last_number then
    -- Something on the way held it back. Nobody waits for it any more: what it leased, nobody would know of.
    reply[#reply + 1] = -1
    reply[#reply + 1] = 0
    return
  end
  if claim[7] ~= '' then
    call('HDEL', P .. 'standing', claim[7])
  end
  if last == nonce and (number == last_number or #last_ids > 0) then
    return again(nonce, last_ids, reply)
  end
  reply[#reply + 1] = -1
  reply[#reply + 1] = 0
  local idle_at, n = #reply - 1, #reply
  local order, chosen = choose(claim[2], caps, claim[5])
  local ids, records = lease(order, chosen, claim, run_entry(nonce, claim[1]))
  for i = 1, #ids do
    reply[n + 2 * i - 1], reply[n + 2 * i] = ids[i], records[i]
  end
  if #ids > 0 or number ~= 0 then
    remember_claim(claim[1], claim[6], nonce, number, ids, claim[3])
  end
  if #order == 0 and claim[8] > 0 then
    stand(claim, names)
    reply[idle_at + 1] = 1
  end
  if #ids < #order then
    reply[idle_at] = 0 -- records were gone: others may wait behind them
  elseif #ids < claim[2] then
    local due, lost = first_score(P .. 'due'), first_score(P .. 'ldue')
    local next = math.min(due or math.huge, lost or math.huge)
    if next < math.huge then
      reply[idle_at] = math.max(0, next - now)
    end
  end
end
