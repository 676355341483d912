--! use base record locking
-- Release a lock that is the owner's. ARGV[2]: name. ARGV[3]: owner. Returns 1 or 0.

if owner_of(ARGV[2]) ~= ARGV[3] then
  return 0
end
return call('DEL', P .. 'lock:' .. ARGV[2])
