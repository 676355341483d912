-- How a task ends, and what is remembered of it.

local ended = {}

local function tell_ended()
  if #ended > 0 then
    publish('done', table.concat(ended, '\n'))
  end
end

-- Know for the rest of its day what a submission became, so that sending it again adds nothing.
local function remember(submission, task, since)
  local rest = since + DAY - now
  if rest > 0 then
    call('SET', P .. 's:' .. submission, pack(task, since + DAY), 'PX', ms(rest))
  end
end

local function holder_of(key)
  local value = call('GET', key)
  if not value then
    return nil
  end
  local holder, expires = cmsgpack.unpack(value)
  if expires > 0 and expires <= now then
    return nil
  end
  return holder
end

local function free_if_held(key, id)
  if holder_of(key) == id then
    call('DEL', key)
  end
end

-- An ended task's user keys: its debounce key is free, its idempotency key lasts `lasting` more (0: free at once).
local function settle_keys(id, name, idempotency, debounce, lasting)
  if debounce then
    local key = scoped('b', name, debounce)
    if call('GET', key) == id then
      call('DEL', key)
    end
  end
  if idempotency then
    local key = scoped('k', name, idempotency)
    if lasting <= 0 then
      free_if_held(key, id)
    elseif holder_of(key) == id then
      call('SET', key, pack(id, now + lasting), 'PX', ms(lasting))
    end
  end
end

-- Enter ended tasks (pairs of creation and id) into the indexes of their name.
local function index_ended(status, name, pairs_, entries, kept)
  local x, e = P .. 'x:' .. status .. ':' .. name, P .. 'e:' .. status .. ':' .. name
  call('ZADD', x, unpack(pairs_))
  call('RPUSH', e, unpack(entries))
  keep_for(x, kept)
  keep_for(e, kept)
end

-- End a task that isn't completed: status 'd' (dead) or 'x' (cancelled), for `reason`, after `events`.
local function finish(id, record, status, reason, run)
  local head, spec = split(record)
  local retention = spec[8]
  local kept = status == 'd' and retention[3] or retention[2]
  local expires = now + kept
  call('SET', P .. 't:' .. id, record .. pack({status, now, expires, run, reason}), 'PX', ms(kept))
  index_ended(status, spec[1], {head[1], id}, {pack(expires, id)}, kept)
  if status == 'd' then
    call('ZADD', P .. 'dead', now, id)
    keep_for(P .. 'dead', kept)
  end
  settle_keys(id, spec[1], spec[6], spec[7], status == 'd' and kept or 0)
  if kept < DAY then
    remember(id, id, head[1])
  end
  ended[#ended + 1] = id
end

-- Drop an ended task's record and its index entries.
local function forget(id, record, status)
  local head, spec = split(record)
  call('DEL', P .. 't:' .. id)
  call('ZREM', P .. 'x:' .. status .. ':' .. spec[1], id)
  call('ZREM', P .. 'dead', id)
  remember(id, id, head[1])
  return head, spec
end

-- The status of an ended record and when it expires; nil for one that hasn't ended.
local function ending_of(record)
  local values = {cmsgpack.unpack(record)}
  local last = values[#values]
  if #values > 2 and last[1] ~= 'e' then
    return last[1], last[3], last
  end
  return nil
end
