--! use base record locking
-- Whether a lock is the owner's. ARGV[2]: name. ARGV[3]: owner. Returns 1 or 0.

return owner_of(ARGV[2]) == ARGV[3] and 1 or 0
