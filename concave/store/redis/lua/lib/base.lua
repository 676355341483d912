-- What every verb starts with: the namespace, the time, and how others are told.
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
--   l:<name>               zset    ids that run, by the end of their lease, and a spacer, see leasing.lua; how many they are
--                                  counts against max_concurrency
--   ldue                   zset    names of which l: isn't empty, by a time at or before their first
--   run                    hash    id -> nonce of the claim (16 bytes), msgpack [worker, started]; and the spacer
--   abort, prog            hash    id -> "1" for a run that is to stop; id -> progress
--   x:<status>:<name>      zset    ids by creation: s scheduled, f failed, c completed, d dead, x cancelled
--   x:b:<name>             zset    heads of blocks of completed tasks, by the creation of the newest of each:
--                                  msgpack(expires, how many, newest - oldest, id of one)
--   y:<name>               hash    head of a block -> msgpack(id, newest - its creation, id …)
--   e:<batch>              list    msgpack(expires, id, id …) of ended tasks; a batch is <status>:<kept>:<name>, so that its
--                                  tasks expire in the order in which they ended; of status b the newest creations of blocks
--   ended                  zset    batches, by a time at or before that at which their first tasks expire
--   dead                   zset    ids of the dead, by the time they died
--   k:<n>:<name>:<key>     string  idempotency key -> msgpack(id, expires or 0); n is the name's length
--   b:<n>:<name>:<key>     string  debounce key -> id of the task that waits under it
--   o:<n>:<name>:<key>     string  debounce key -> msgpack(highest sequence, id of the task that stands last, expires)
--   s:<id>                 string  msgpack(task, expires): a submission whose record is gone, or is another's
--   w:<worker>:<start>:<line>
--                          string  nonce of the last claim on this line, msgpack(its number, [id, …]); the start is what its
--                                  nonces begin with, and empty for claims that aren't counted
--   standing               hash    desk -> msgpack [worker, limit, lease, nonce, line, until when, number], names: see
--                                  standing.lua
--   bad:<id>               string  a record that nobody can read, put aside
--   sched, slots           zset    schedules by creation, and by their next slot where enabled
--   sched:<id>             hash    body, rule, enabled, next, last, created, anchor
--   lock:<name>            string  msgpack(owner, expires)
--
-- A record is a row of msgpack values: the head, the spec, and then events in the order they came.
--   head   [created, due, failed ("" or "f": waits for a retry), attempts failed, crashes, interruptions, claimed once]
--   spec   [name, priority, input, max_attempts, max_crashes, idempotency key or false, debounce key or false,
--           [completed, cancelled, dead, key] retention in microseconds or false for KEPT, revived from or false]
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

-- A server that is out of memory refuses a script's first write if that could need more, and only that. What must go through even
-- then, lest leases and locks run out whose holders are well, begins with a write that needs none.
local function go_through()
  call('DEL', P .. 'none')
end

-- Redis writes a number that is an argument with 17 digits, slowly: a time that goes into many commands is written once, and what is
-- always the same is text.
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

local function publish(channel, message)
  call('PUBLISH', P .. channel, message)
end

-- A lane has something that is due: enter it, and tell idle workers if it had nothing before.
local function activate(lane)
  if call('ZADD', P .. 'a:' .. string.sub(lane, 1, 1), 'NX', stamp, lane) == 1 then
    publish('work', string.sub(lane, 4))
  end
end
