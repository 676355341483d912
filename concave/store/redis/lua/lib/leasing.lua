-- What it takes to lease a task, whoever asks for it.

-- An entry of `run`. It is padded beyond the 64 bytes up to which Redis keeps a small hash as a list, in which each look is a
-- walk.
local function run_entry(nonce, worker)
  return nonce .. pack({worker, now}, string.rep(' ', 64))
end

-- Lease tasks for `lasting` from now: ids by name, some of each.
local function hold(ids_by_name, lasting, run)
  local deadline, runs, names = whole(now + lasting), {}, {}
  for name, ids in pairs(ids_by_name) do
    local leases = {}
    for i, id in ipairs(ids) do
      leases[2 * i - 1], leases[2 * i] = deadline, id
      runs[#runs + 1] = id
      runs[#runs + 1] = run
    end
    call('ZADD', P .. 'l:' .. name, unpack(leases))
    names[#names + 1] = deadline
    names[#names + 1] = name
  end
  if #runs > 0 then
    call('HSET', P .. 'run', unpack(runs))
    call('ZADD', P .. 'ldue', 'LT', unpack(names))
  end
end

-- Longer than a network, or a proxy, holds back what it delivers after all.
local LATEST = 900000000

-- Workers may share an id: replicas of one deployment, say. What the nonces of counted claims begin with is of one start alone.
local function last_claim_key(worker, line, nonce, number)
  local start = number ~= 0 and string.sub(nonce, 1, 8) or ''
  return P .. 'w:' .. worker .. ':' .. start .. ':' .. line
end

-- Know the last claim of a line, and what it leased: it may be sent again, and those before it may come late.
local function remember_claim(worker, line, nonce, number, ids, lasting)
  local seen = nonce .. pack(number, ids)
  local key = last_claim_key(worker, line, nonce, number)
  call('SET', key, seen, 'PX', ms(math.max(lasting, LATEST)))
end
