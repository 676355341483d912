--! use base record blocks ending
-- Drop the index entries of records that have expired, 20,000 at most; how many.

return drop_all_expired()
