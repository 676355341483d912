-- What it takes to lease a task, whoever asks for it.

-- An entry of `run`. It is padded beyond the 64 bytes up to which Redis keeps a small hash as a list, in which each look is a
-- walk.
local function run_entry(nonce, worker)
  return nonce .. pack({worker, now}, string.rep(' ', 64))
end

-- Lease ids of one name, of which there are some, for `lasting` from now.
local function hold(name, ids, lasting, run)
  local deadline, leases, runs = whole(now + lasting), {}, {}
  for i, id in ipairs(ids) do
    leases[2 * i - 1], leases[2 * i] = deadline, id
    runs[2 * i - 1], runs[2 * i] = id, run
  end
  call('HSET', P .. 'run', unpack(runs))
  call('ZADD', P .. 'l:' .. name, unpack(leases))
  call('ZADD', P .. 'ldue', 'LT', deadline, name)
end

-- Know what a claim leased, should it be sent again.
local function remember_claim(worker, line, nonce, ids, lasting)
  call('SET', P .. 'w:' .. worker .. ':' .. line, nonce .. pack(ids), 'PX', ms(lasting))
end
