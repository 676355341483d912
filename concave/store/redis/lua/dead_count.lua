--! use base record blocks ending
-- How many tasks are dead.

drop_all_expired()
return call('ZCARD', P .. 'dead')
