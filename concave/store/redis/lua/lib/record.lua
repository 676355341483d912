-- How keys are named, records are taken apart, and values that others may have damaged are read.

local function first_score(key)
  return tonumber(call('ZRANGE', key, '0', '0', 'WITHSCORES')[2])
end

local function scoped(kind, name, key)
  return P .. kind .. ':' .. #name .. ':' .. name .. ':' .. key
end

-- The values that bytes stand for; nothing where something else wrote them, or damaged them.
local function values_of(bytes)
  local values = {pcall(cmsgpack.unpack, bytes)}
  if values[1] then
    return unpack(values, 2)
  end
end

-- head, spec and the bytes behind the head. Raises for what isn't a record: something else wrote it, or it is damaged.
local function split(record)
  local offset, head = unpack_one(record)
  local _, spec = unpack_one(record, offset)
  local whole = type(head) == 'table' and #head == 7 and type(spec) == 'table' and #spec == 9
  for _, i in ipairs({1, 2, 4, 5, 6, 7}) do
    whole = whole and type(head[i]) == 'number'
  end
  whole = whole and type(spec[1]) == 'string' and type(spec[2]) == 'number' and type(spec[5]) == 'number'
  if not (whole and (spec[8] == false or type(spec[8]) == 'table' and #spec[8] == 4)) then
    error('not a record')
  end
  return head, spec, string.sub(record, offset + 1)
end

local runs_seen = {}

-- What an entry of `run` says: its nonce, and [worker, started] packed. All tasks of a claim have the same one: taken apart once.
local function run_of(entry)
  local run = runs_seen[entry]
  if not run then
    local where = values_of(string.sub(entry, 17))
    if type(where) ~= 'table' or type(where[1]) ~= 'string' or type(where[2]) ~= 'number' then
      where = {'', 0}
    end
    run = {nonce = string.sub(entry, 1, 16), worker = where[1], started = where[2], packed = pack(where)}
    runs_seen[entry] = run
  end
  return run
end

-- Lengthen the life of a key that holds several things, if it would end before the latest of them. Renewed with some
-- room, so that this is rarely more than a look.
local function keep_for(key, micros)
  local wanted = math.floor(micros / 1000)
  if call('PTTL', key) < wanted then
    call('PEXPIRE', key, string.format('%.0f', wanted + math.max(MINUTE, math.floor(wanted / 8))))
  end
end
