--! use base record columns waiting blocks ending leasing standing claiming settling
-- Carry out decisions about leased tasks, then claim.
-- ARGV[2]: msgpack of completions, in columns: [[name, kept, [id, …], [nonce, …], [creation, …], [packed result, …]], …],
-- each a group of one name, kept for the same time and without keys of their users.
-- ARGV[3]: msgpack of other decisions, in rows: [[id, nonce, name, decision, …], …], with behind the decision
--   "c"  packed result, kept, creation, idempotency key or false, debounce key or false, key kept
--   "r"  delay, failure or false            retry; a failure is [error, traceback]
--   "b"                                     hand back
--   "d"  reason, failure or false           die
--   "x"  reason                             cancel
-- ARGV[4]: msgpack [worker, limit, lease, nonce, suspects, line, desk, stands, number], or "" to claim nothing.
-- ARGV[5]: msgpack name -> cap. ARGV[6]: names, as stand() takes them.
-- Returns a string with "1" for each decision that was carried out and "0" for each whose token was stale (first those of the
-- columns, group by group), the time, then what claim.lua returns.

local marks, names = {}, {}

local groups = cmsgpack.unpack(ARGV[2])
stop_running(groups, marks)
for _, group in ipairs(groups) do
  names[group[1]] = true
  if #group[3] > 0 then
    complete_group(group)
  end
end

local rows = cmsgpack.unpack(ARGV[3])
if #rows > 0 then
  settle_rows(rows, marks, names)
end

local reply = {table.concat(marks), stamp}
local caps = {}
if ARGV[4] ~= '' then
  caps = cmsgpack.unpack(ARGV[5])
  claim_into(reply, cmsgpack.unpack(ARGV[4]), caps, ARGV[6])
end
-- A slot under a cap came free and this worker didn't fill it: others may be idle because of the cap alone.
for name in pairs(names) do
  if caps[name] ~= 0 then
    tell_of_room(name)
  end
end
tell_ended()
return reply
