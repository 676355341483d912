-- What it takes to lease a task, whoever asks for it.

-- Redis keeps a small hash or sorted set as a list, in which each look is a walk, until something in it has more than 64 bytes:
-- this, which stands in `run` and in `l:` as long as anything else does. As a lease it never runs out.
local SPACER = '                                                                 '

local function run_entry(nonce, worker)
  return nonce .. pack({worker, now})
end

-- Tasks that no longer run; how many they were.
local function leave_run(ids)
  local left = call('HDEL', P .. 'run', unpack(ids))
  if call('HLEN', P .. 'run') <= 1 then
    call('DEL', P .. 'run')
  end
  return left
end

-- How many tasks of a name are leased.
local function leased(name)
  return math.max(0, call('ZCARD', P .. 'l:' .. name) - 1)
end

local function leave_leases(name, ids)
  call('ZREM', P .. 'l:' .. name, unpack(ids))
  if leased(name) == 0 then
    call('DEL', P .. 'l:' .. name)
    call('ZREM', P .. 'ldue', name)
  end
end

-- Lease tasks for `lasting` from now: ids by name, some of each.
local function hold(ids_by_name, lasting, run)
  local deadline, runs, names = whole(now + lasting), {SPACER, SPACER}, {}
  for name, ids in pairs(ids_by_name) do
    local leases = {'inf', SPACER}
    local n = #runs
    for i = 1, #ids do
      local id = ids[i]
      leases[2 * i + 1], leases[2 * i + 2] = deadline, id
      runs[n + 2 * i - 1], runs[n + 2 * i] = id, run
    end
    call('ZADD', P .. 'l:' .. name, unpack(leases))
    names[#names + 1] = deadline
    names[#names + 1] = name
  end
  if #names > 0 then
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
