--! use base record waiting blocks ending
-- Forget tasks that died long enough ago, 1,000 at most. ARGV[2]: how long. Returns how many were looked at, how many went.

drop_all_expired()
local before = '(' .. string.format('%.0f', now - tonumber(ARGV[2]))
local ids = call('ZRANGEBYSCORE', P .. 'dead', '-inf', before, 'LIMIT', '0', '1000')
local purged = 0
for _, id in ipairs(ids) do
  local record = call('GET', P .. 't:' .. id)
  local spec = record and select(2, readable(record))
  if spec then
    forget(id, record, 'd')
    settle_keys(id, spec[1], spec[6], false, 0)
    purged = purged + 1
  else
    call('ZREM', P .. 'dead', id)
  end
end
return {#ids, purged}
