--! use base
-- Drop the index entries of records that have expired: for each name and status the oldest 100. Entries stand in the order
-- in which tasks ended, which is the order in which they expire as long as a name's retention isn't changed; where it was,
-- an entry may outlive its record for a while, and whoever reads the index passes over it. Returns how many went.

local tidied = 0
for _, name in ipairs(call('SMEMBERS', P .. 'names')) do
  for _, status in ipairs({'c', 'd', 'x'}) do
    local e, gone = P .. 'e:' .. status .. ':' .. name, {}
    for _, entry in ipairs(call('LRANGE', e, 0, 99)) do
      local expires, id = cmsgpack.unpack(entry)
      if expires > now then
        break
      end
      gone[#gone + 1] = id
    end
    if #gone > 0 then
      call('LTRIM', e, #gone, -1)
      call('ZREM', P .. 'x:' .. status .. ':' .. name, unpack(gone))
      call('ZREM', P .. 'dead', unpack(gone))
      tidied = tidied + #gone
    end
  end
end
return tidied
