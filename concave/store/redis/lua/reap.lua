--! use base record columns waiting blocks ending leasing standing claiming
-- Take back the tasks whose leases ran out, some thousands at most; how many.

local reaped = 0
for _ = 1, 10 do
  reaped = reaped + reap(1000)
  if (first_score(P .. 'ldue') or math.huge) > now then
    break
  end
end
tell_ended()
return reaped
