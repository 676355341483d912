--! use base record columns waiting blocks ending leasing standing claiming
-- Lease what is due. ARGV[2]: msgpack [worker, limit, lease, nonce, suspects, line, desk, stands, number]. ARGV[3]: msgpack name -> cap, 0 for
-- none. ARGV[4]: names, as stand() takes them.
-- Returns the time of the leases, how long until something known falls due (-1: nothing is), 1 if the claim stands or 0, then
-- id, record, id, record …

local reply = {stamp}
claim_into(reply, cmsgpack.unpack(ARGV[2]), cmsgpack.unpack(ARGV[3]), ARGV[4])
tell_ended()
return reply
