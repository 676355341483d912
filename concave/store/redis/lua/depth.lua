--! use base record
-- How many tasks wait, due or not.

local depth = 0
for bucket = 0, 3 do
  for _, lane in ipairs(call('ZRANGE', P .. 'a:' .. bucket, '0', '-1')) do
    depth = depth + call('ZCARD', P .. 'q:' .. lane)
  end
end
for _, lane in ipairs(call('ZRANGE', P .. 'due', '0', '-1')) do
  depth = depth + call('ZCARD', P .. 'd:' .. lane)
end
return depth
