--! use base waiting ending claiming
-- Carry out decisions about leased tasks, then claim.
-- ARGV[2]: msgpack [[id, nonce, name, decision, …], …], with behind the decision
--   "c"  packed result, kept, created, idempotency key or false, debounce key or false, key kept
--   "r"  delay, failure or false            retry; a failure is [error, traceback]
--   "b"                                     hand back
--   "d"  reason, failure or false           die
--   "x"  reason                             cancel
-- ARGV[3]: msgpack [worker, limit, lease, nonce, suspects], or "" to claim nothing. ARGV[4]: msgpack name -> cap.
-- Returns a string with "1" for each decision that was carried out and "0" for each whose token was stale, the time, then
-- what claim.lua returns.

local settlements = cmsgpack.unpack(ARGV[2])
local ids, marks, freed, gone, decided = {}, {}, {}, {}, {}
for i, s in ipairs(settlements) do
  ids[i] = s[1]
end
local held = call('HMGET', P .. 'run', unpack(ids))
for i, s in ipairs(settlements) do
  local current = held[i] and string.sub(held[i], 1, 16) == s[2] and not decided[s[1]]
  marks[i] = current and '1' or '0'
  if current then
    decided[s[1]] = true
    local of_name = freed[s[3]] or {}
    of_name[#of_name + 1] = s[1]
    freed[s[3]] = of_name
    gone[#gone + 1] = s[1]
  end
end
-- Removals first: a server that is out of memory refuses a script's first write if it could need more, and only that.
if #gone > 0 then
  call('HDEL', P .. 'run', unpack(gone))
  call('HDEL', P .. 'abort', unpack(gone))
  call('HDEL', P .. 'prog', unpack(gone))
  for name, of_name in pairs(freed) do
    call('ZREM', P .. 'l:' .. name, unpack(of_name))
    if call('EXISTS', P .. 'l:' .. name) == 0 then
      call('ZREM', P .. 'ldue', name)
    end
  end
end

local completed = {}

local function complete(s, record, run)
  local id, name, kept = s[1], s[3], s[6]
  local expires = now + kept
  call('SET', P .. 't:' .. id, record .. '\149' .. pack('c', now, expires) .. run .. s[5], 'PX', ms(kept))
  local batches = completed[name] or {}
  completed[name] = batches
  local batch = batches[kept] or {created = {}, ids = {}}
  batches[kept] = batch
  batch.created[#batch.created + 1] = s[7]
  batch.created[#batch.created + 1] = id
  batch.ids[#batch.ids + 1] = id
  if s[8] or s[9] then
    settle_keys(id, name, s[8], s[9], s[10])
  end
  if kept < DAY then
    remember(id, id, s[7])
  end
  ended[#ended + 1] = id
end

-- Count a failure in the head and keep it as an event; the latest of them, should there be many.
local function failed(head, rest, failure, where)
  if not failure then
    return rest
  end
  head[4] = head[4] + 1
  rest = rest .. pack({'e', now, where[1], head[4], failure[1], failure[2]})
  if head[4] > 20 then
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

for i, s in ipairs(settlements) do
  local record = marks[i] == '1' and call('GET', P .. 't:' .. s[1])
  if record then
    local run = string.sub(held[i], 17)
    if s[4] == 'c' then
      complete(s, record, run)
    elseif s[4] == 'r' or s[4] == 'b' then
      again_later(s, record, cmsgpack.unpack(run))
    else
      give_up(s, record, cmsgpack.unpack(run))
    end
  end
end
for name, batches in pairs(completed) do
  for kept, batch in pairs(batches) do
    index_ended('c', name, kept, batch.created, batch.ids)
  end
end

local reply = {table.concat(marks), string.format('%.0f', now)}
local caps = {}
if ARGV[3] ~= '' then
  caps = cmsgpack.unpack(ARGV[4])
  claim_into(reply, cmsgpack.unpack(ARGV[3]), caps)
end
-- A slot under a cap came free and this worker didn't fill it: others may be idle because of the cap alone.
for name in pairs(freed) do
  if caps[name] ~= 0 then
    tell_of_room(name)
  end
end
tell_ended()
return reply
