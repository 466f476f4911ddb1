-- Remove overlay fields whose entry is at or below a committed position.
--
-- KEYS[i] pending overlay of a user. ARGV[1], ARGV[2] the position's ms and seq, ARGV[3] the
-- stamps it knows ('': any), then per user: number of fields, fields ... A field that was
-- written again meanwhile stays, and one of an incarnation that is not known yet.

local last_ms, last_seq, stamps = ARGV[1], ARGV[2], ARGV[3]

local function at_or_below(a, b)
  if #a ~= #b then return #a < #b end
  return a <= b
end

local at = 4
for user = 1, #KEYS do
  local count = tonumber(ARGV[at])
  local fields = {unpack(ARGV, at + 1, at + count)}
  local values = redis.call('HMGET', KEYS[user], unpack(fields))
  local gone = {}
  for i = 1, count do
    if values[i] then
      local ms, seq, by = string.match(values[i], '^(%d+)-(%d+) (%w+) ')
      -- A damaged value tells nothing any more: it must not stop the others.
      local written = not ms or at_or_below(ms, last_ms)
      if ms == last_ms then written = at_or_below(seq, last_seq) end
      if ms and stamps ~= '' and not string.find(stamps, by, 1, true) then written = false end
      if written then gone[#gone + 1] = fields[i] end
    end
  end
  if #gone > 0 then redis.call('HDEL', KEYS[user], unpack(gone)) end
  at = at + count + 1
end
return redis.status_reply('OK')
