-- Claims that found nothing and stand. A task that comes along is leased to one of them in the step that adds it, and its
-- worker gets it by message: that is one round trip less than to be told and then to claim.

local function any_that_stands()
  return unpack(call('HRANDFIELD', P .. 'standing', '1', 'WITHVALUES'))
end

-- [worker, limit, lease, nonce, line, until when it stands, number] of an entry, and where its names begin; nothing where its time is
-- over, or nobody can read it.
local function entry_of(value)
  local sound, offset, entry = pcall(unpack_one, value)
  if sound and type(entry) == 'table' and (tonumber(entry[6]) or 0) >= now then
    return entry, offset
  end
end

-- names: "\n", and each name without a cap with a "\n" behind it.
local function stand(claim, names)
  -- What dead workers left goes bit by bit, also where nothing is added that could be handed out.
  local gone, value = any_that_stands()
  if gone and not entry_of(value) then
    call('HDEL', P .. 'standing', gone)
  end
  local entry = pack({claim[1], claim[2], claim[3], claim[4], claim[6], now + claim[8], claim[9]})
  call('HSET', P .. 'standing', claim[7], entry .. names)
  call('PEXPIRE', P .. 'standing', ms(claim[8]))
end

-- Whether the worker behind a standing claim would hear. Asked before anything is told: in a cluster a message reaches
-- listeners at other nodes, which aren't counted here, and they must not get what they don't hold.
local function hears(channel)
  local answer = redis.pcall('PUBSUB', 'NUMSUB', P .. channel)
  return (tonumber(answer[2]) or 0) > 0
end

-- The standing claim that an entry tells of, if it takes tasks of this name. It is no more after that.
local function standing_at(desk, value, name)
  local entry, offset = entry_of(value)
  if entry and hears('leases:' .. desk) then
    if not string.find(value, '\n' .. name .. '\n', offset + 1, true) then
      return nil
    end
  else
    entry = nil
  end
  call('HDEL', P .. 'standing', desk)
  return entry
end

local TRIES = 3
-- Bytes of records that a message holds. Redis cuts off a listener for whom much lies about, and a cluster tells all its nodes.
local LARGEST_MESSAGE = 262144

-- Lease new tasks of a name to claims that stand, and tell their workers; how many of them, from the first. Nothing overtakes
-- what waits in the lane: first in, first out. Where several lanes share what comes, none takes all that a claim has room
-- for: its worker claims for the rest of it, by turns.
local function hand_out(lane, ids, records, lanes)
  local name, given = string.sub(lane, 4), 0
  for try = 1, TRIES do
    if #records[given + 1] > LARGEST_MESSAGE then
      break
    end
    -- Any will do: of idle workers each has its turn.
    local desk, value = any_that_stands()
    if not desk or (try == 1 and call('EXISTS', P .. 'q:' .. lane) == 1) then
      break
    end
    local claim = standing_at(desk, value, name)
    if claim then
      local worker, limit, lasting, nonce, line, _, number = unpack(claim)
      local mine, message, size = {}, {nonce, worker, now}, 0
      for i = given + 1, math.min(given + math.ceil(limit / lanes), #ids) do
        size = size + #records[i]
        if size > LARGEST_MESSAGE then
          break
        end
        mine[#mine + 1] = ids[i]
        message[#message + 1] = ids[i]
        message[#message + 1] = records[i]
      end
      hold({[name] = mine}, lasting, run_entry(nonce, worker))
      remember_claim(worker, line, nonce, number, mine, lasting)
      publish('leases:' .. desk, pack(unpack(message)))
      given = given + #mine
      if given == #ids then
        break
      end
    end
  end
  return given
end
