-- A lock's owner, if it has one by now.

local function owner_of(name)
  local value = call('GET', P .. 'lock:' .. name)
  if value then
    local owner, expires = values_of(value)
    if type(owner) == 'string' and type(expires) == 'number' and expires > now then
      return owner
    end
  end
  return nil
end

local function own(name, owner, ttl)
  call('SET', P .. 'lock:' .. name, pack(owner, now + ttl), 'PX', ms(ttl))
end
