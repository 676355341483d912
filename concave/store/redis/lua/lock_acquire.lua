--! use base record locking
-- Take a lock that is free or the owner's. ARGV[2]: name. ARGV[3]: owner. ARGV[4]: ttl. Returns 1 or 0.

local owner = owner_of(ARGV[2])
if owner and owner ~= ARGV[3] then
  return 0
end
own(ARGV[2], ARGV[3], tonumber(ARGV[4]))
return 1
