--! use base record locking
-- Renew a lock that is the owner's. ARGV[2]: name. ARGV[3]: owner. ARGV[4]: ttl. Returns 1 or 0.

if owner_of(ARGV[2]) ~= ARGV[3] then
  return 0
end
go_through()
own(ARGV[2], ARGV[3], tonumber(ARGV[4]))
return 1
