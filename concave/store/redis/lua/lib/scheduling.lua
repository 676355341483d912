-- Schedules as they are returned: [id, body, enabled, next, last or "", created, anchor of an interval].

local function rows_of(ids)
  local rows = {}
  for _, id in ipairs(ids) do
    local row = call('HMGET', P .. 'sched:' .. id, 'body', 'enabled', 'next', 'last', 'created', 'anchor')
    if row[1] then
      rows[#rows + 1] = {id, row[1], row[2], row[3], row[4] or '', row[5], row[6]}
    end
  end
  return rows
end
