-- How a task ends, and what is remembered of it.

local ended, ends, told, indexed, longest_kept = {}, 0, {}, false, -1

-- Where few tasks end at once, whoever waits for one is told all of it, and needn't ask. Where many do, that would be more than
-- anybody waits for.
local FEW, SHORT = 4, 4096

local function has_ended(id, record)
  ended[#ended + 1] = id
  ends = ends + 1
  if #told < 2 * FEW and #record <= SHORT then
    told[#told + 1] = id
    told[#told + 1] = record
  end
end

-- Drop a batch's entries of tasks that have expired, up to about `limit` tasks; how many, and when the next one does.
local function drop_of(batch, limit)
  local e, status, name = P .. 'e:' .. batch, string.match(batch, '^(%a):%d+:(.*)$')
  local passed, dropped, next = 0, 0, now
  for _, entry in ipairs(call('LRANGE', e, '0', '99')) do
    local values = {values_of(entry)}
    if type(values[1]) == 'number' then -- otherwise nobody can read it, and it says nothing
      next = values[1]
      if next > now or dropped >= limit then
        break
      end
      if status == 'b' then
        for i = 2, #values do
          dropped = dropped + drop_blocks(name, values[i])
        end
      else
        redis.pcall('ZREM', P .. 'x:' .. (status or '') .. ':' .. (name or ''), unpack(values, 2))
        dropped = dropped + #values - 1
      end
      if status == 'd' then
        redis.pcall('ZREM', P .. 'dead', unpack(values, 2))
      end
    end
    passed = passed + 1
  end
  if passed > 0 then
    call('LTRIM', e, passed, '-1')
  end
  return dropped, call('EXISTS', e) == 1 and next
end

-- Drop the index entries of up to about `limit` tasks whose records have expired; how many.
local function drop_expired(limit)
  local dropped = 0
  for _, batch in ipairs(call('ZRANGEBYSCORE', P .. 'ended', '-inf', stamp, 'LIMIT', '0', '50')) do
    local of_batch, next = drop_of(batch, limit - dropped)
    dropped = dropped + of_batch
    if next then
      call('ZADD', P .. 'ended', next, batch)
    else
      call('ZREM', P .. 'ended', batch)
    end
    if dropped >= limit then
      break
    end
  end
  return dropped
end

-- Drop all of them, as far as one step may: before a listing that counts or pages.
local function drop_all_expired()
  local dropped = 0
  for _ = 1, 20 do
    if (first_score(P .. 'ended') or math.huge) > now then
      break
    end
    dropped = dropped + drop_expired(1000)
  end
  return dropped
end

local function tell_ended()
  if #ended > 0 then
    local message = table.concat(ended, '\n')
    publish('done', #told > 0 and ends <= FEW and message .. '\0' .. pack(unpack(told)) or message)
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
  local holder, expires = values_of(value)
  if type(holder) ~= 'string' or type(expires) ~= 'number' or (expires > 0 and expires <= now) then
    return nil
  end
  if expires == 0 and call('EXISTS', P .. 't:' .. holder) == 0 then
    return nil -- its record was evicted, or damaged and put aside
  end
  return holder
end

-- What is known of the numbered submissions under a debounce key: the highest number, the task that stands last, and until
-- when; nothing where there were none.
local function newest_under(name, key)
  local known = call('GET', scoped('o', name, key))
  if known then
    local sequence, standing, expires = values_of(known)
    local whole = type(sequence) == 'number' and type(standing) == 'string' and type(expires) == 'number'
    if whole and expires > now then
      return sequence, standing, expires
    end
  end
end

-- Whether another task stands last under this one's debounce key, and numbers say so.
local function superseded(id, spec)
  local _, standing = newest_under(spec[1], spec[7] or '')
  return spec[7] and standing and standing ~= id
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

-- Enter ended tasks that are kept for the same time into the indexes of their name: pairs of creation and id, and the ids; or
-- blocks of them, as pairs of the newest creation and head, and the newest creations.
local function index_ended(status, name, kept, pairs_, ids)
  -- Whoever makes entries drops more than it makes, so that the indexes never outgrow what is kept; and first, since an
  -- id that is in use again must not lose its new entry with its old one.
  if not indexed then
    indexed = true
    drop_expired(2000)
  end
  local batch = string.format('%s:%.0f:%s', status, kept, name)
  local x, e = P .. 'x:' .. status .. ':' .. name, P .. 'e:' .. batch
  call('ZADD', x, unpack(pairs_))
  call('RPUSH', e, pack(now + kept, unpack(ids)))
  call('ZADD', P .. 'ended', 'NX', whole(now + kept), batch)
  keep_for(x, kept)
  -- A day more, so that they outlast what they tell to drop.
  keep_for(e, kept + DAY)
  if kept > longest_kept then
    longest_kept = kept
    keep_for(P .. 'ended', kept + DAY)
  end
end

-- Enter tasks that were completed together.
local function index_completed(name, kept, ids, times)
  local blocks, single = blocks_of(ids, times, now + kept)
  if #blocks.tops > 0 then
    index_ended('b', name, kept, blocks.heads, blocks.tops)
    call('HSET', P .. 'y:' .. name, unpack(blocks.tasks))
    keep_for(P .. 'y:' .. name, kept)
  end
  if #single.ids > 0 then
    index_ended('c', name, kept, single.pairs, single.ids)
  end
end

-- End a task that isn't completed: status 'd' (dead) or 'x' (cancelled), for `reason`, after `events`.
local function finish(id, record, status, reason, run)
  local head, spec = split(record)
  local retention = spec[8] or KEPT
  local kept = status == 'd' and retention[3] or retention[2]
  local expires = now + kept
  record = record .. pack({status, now, expires, run, reason})
  call('SET', P .. 't:' .. id, record, 'PX', ms(kept))
  index_ended(status, spec[1], kept, {head[1], id}, {id})
  if status == 'd' then
    call('ZADD', P .. 'dead', now, id)
    keep_for(P .. 'dead', kept)
    publish('dead', id)
  end
  settle_keys(id, spec[1], spec[6], spec[7], status == 'd' and kept or 0)
  if kept < DAY then
    remember(id, id, head[1])
  end
  has_ended(id, record)
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

-- head, spec and the bytes behind the head; nothing where it isn't a record.
local function readable(record)
  local whole, head, spec, rest = pcall(split, record)
  if whole then
    return head, spec, rest
  end
end

-- Nobody can read this record, and it must not keep anybody from reading others.
local function put_aside(id)
  call('RENAME', P .. 't:' .. id, P .. 'bad:' .. id)
  call('PEXPIRE', P .. 'bad:' .. id, ms(90 * DAY))
end

-- How a task ends that another one has taken the place of before it could run again.
local SUPERSEDED = 'a newer task has taken its place'
