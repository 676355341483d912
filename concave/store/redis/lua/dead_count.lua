--! use base
-- How many tasks are dead.

return call('ZCARD', P .. 'dead')
