-- Lists as columns, which go together entry by entry. Here and where tasks go by the batch, loops count: ipairs() calls a function
-- for each entry.

local function append(list, more)
  local n = #list
  for i = 1, #more do
    list[n + i] = more[i]
  end
end

-- The entries of a column beside which another has something.
local function only(column, beside)
  local rest, n = {}, 0
  for i = 1, #beside do
    if beside[i] then
      n = n + 1
      rest[n] = column[i]
    end
  end
  return rest
end
