-- What every verb starts with: the namespace, the time, and how a record is taken apart.
--
-- KEYS[1]  the namespace, "{prefix}:". Its braces put every key of the namespace into one slot of a cluster.
-- ARGV[1]  the time in microseconds, or "" for the server's own clock (tests alone give one).
--
-- Keys, each behind the namespace:
--   t:<id>                 string  a task's record, see below
--   q:<lane>               zset    ids that are due, by creation; a lane is <bucket><kind>:<name>, kind "n" for normal or
--                                  "s" for suspect: those that have crashed a worker
--   a:<bucket>             zset    lanes of the bucket that aren't empty, by the time they were last served
--   d:<lane>               zset    ids that are not due yet, by the time they are
--   due                    zset    lanes of which d: isn't empty, by a time at or before their first
--   l:<name>               zset    ids that run, by the end of their lease; its size counts against max_concurrency
--   ldue                   zset    names of which l: isn't empty, by a time at or before their first
--   run                    hash    id -> nonce of the claim (16 bytes), msgpack [worker, started], padding
--   abort, prog            hash    id -> "1" for a run that is to stop; id -> progress
--   x:<status>:<name>      zset    ids by creation: s scheduled, f failed, c completed, d dead, x cancelled
--   e:<batch>              list    msgpack(expires, id, id …) of ended tasks; a batch is <status>:<kept>:<name>, so that its
--                                  tasks expire in the order in which they ended
--   ended                  zset    batches, by a time at or before that at which their first tasks expire
--   dead                   zset    ids of the dead, by the time they died
--   k:<n>:<name>:<key>     string  idempotency key -> msgpack(id, expires or 0); n is the name's length
--   b:<n>:<name>:<key>     string  debounce key -> id of the task that waits under it
--   o:<n>:<name>:<key>     string  debounce key -> msgpack(highest sequence, id of the task that stands last, expires)
--   s:<id>                 string  msgpack(task, expires): a submission whose record is gone, or is another's
--   w:<worker>:<line>      string  nonce of the last claim on this line, msgpack of the ids
--   bad:<id>               string  a record that nobody can read, put aside
--   sched, slots           zset    schedules by creation, and by their next slot where enabled
--   sched:<id>             hash    body, rule, enabled, next, last, created, anchor
--   lock:<name>            string  msgpack(owner, expires)
--
-- A record is a row of msgpack values: the head, the spec, and then events in the order they came.
--   head   [created, due, failed ("" or "f": waits for a retry), attempts failed, crashes, interruptions, claimed once]
--   spec   [name, priority, input, max_attempts, max_crashes, idempotency key or false, debounce key or false,
--           [completed, cancelled, dead, key] retention in microseconds, revived from or false]
--   events ["e", at, worker, attempt, error, traceback]        an attempt failed
--          [status, at, expires, [worker, started], payload]   the end: c with a result, d and x with a reason
-- Inputs and results are never looked into.

local P = KEYS[1]
local call = redis.call
local pack, unpack_one = cmsgpack.pack, cmsgpack.unpack_one

local now
if ARGV[1] == '' then
  local time = call('TIME')
  now = tonumber(time[1]) * 1000000 + tonumber(time[2])
else
  now = tonumber(ARGV[1])
end

-- The driver writes a number as an argument with 17 digits, slowly: a time that goes into many commands is written once.
local function whole(number)
  return string.format('%.0f', number)
end

local stamp = whole(now)
local DAY = 86400000000
local MINUTE = 60000

-- Redis takes milliseconds; one more, so that a key never goes before its time.
local function ms(micros)
  return string.format('%.0f', math.floor(micros / 1000) + 1)
end

local function first_score(key)
  return tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

local function scoped(kind, name, key)
  return P .. kind .. ':' .. #name .. ':' .. name .. ':' .. key
end

-- The values that bytes stand for; nothing where something else wrote them, or damaged them.
local function values_of(bytes)
  local values = {pcall(cmsgpack.unpack, bytes)}
  if values[1] then
    return unpack(values, 2)
  end
end

-- head, spec and the bytes behind the head. Raises for what isn't a record: something else wrote it, or it is damaged.
local function split(record)
  local offset, head = unpack_one(record)
  local _, spec = unpack_one(record, offset)
  local whole = type(head) == 'table' and #head == 7 and type(spec) == 'table' and #spec == 9
  for _, i in ipairs({1, 2, 4, 5, 6, 7}) do
    whole = whole and type(head[i]) == 'number'
  end
  whole = whole and type(spec[1]) == 'string' and type(spec[2]) == 'number' and type(spec[5]) == 'number'
  if not (whole and type(spec[8]) == 'table' and #spec[8] == 4) then
    error('not a record')
  end
  return head, spec, string.sub(record, offset + 1)
end

-- An entry of `run`. It is padded beyond the 64 bytes up to which Redis keeps a small hash as a list, in which each look is a
-- walk.
local function run_entry(nonce, worker)
  return nonce .. pack({worker, now}, string.rep(' ', 64))
end

local runs_seen = {}

-- What an entry of `run` says: its nonce, and [worker, started] packed. All tasks of a claim have the same one: taken apart once.
local function run_of(entry)
  local run = runs_seen[entry]
  if not run then
    local where = values_of(string.sub(entry, 17))
    if type(where) ~= 'table' or type(where[1]) ~= 'string' or type(where[2]) ~= 'number' then
      where = {'', 0}
    end
    run = {nonce = string.sub(entry, 1, 16), worker = where[1], started = where[2], packed = pack(where)}
    runs_seen[entry] = run
  end
  return run
end

local function publish(channel, message)
  call('PUBLISH', P .. channel, message)
end

-- Lengthen the life of a key that holds several things, if it would end before the latest of them. Renewed with some
-- room, so that this is rarely more than a look.
local function keep_for(key, micros)
  local wanted = math.floor(micros / 1000)
  if call('PTTL', key) < wanted then
    call('PEXPIRE', key, string.format('%.0f', wanted + math.max(MINUTE, math.floor(wanted / 8))))
  end
end
