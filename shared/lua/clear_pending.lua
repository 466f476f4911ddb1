-- Remove overlay fields whose entries are committed.
--
-- KEYS[i] pending overlay of a user. ARGV[1], ARGV[2] the position's ms and seq, ARGV[3] how
-- far the entries of each stamp are applied ('': unknown), then per user: number of fields,
-- fields ... A field that was written again meanwhile stays.

local last_ms, last_seq, stamps = ARGV[1], ARGV[2], ARGV[3]

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
      if not ms or is_settled(ms, seq, by, stamps, last_ms, last_seq) then
        gone[#gone + 1] = fields[i]
      end
    end
  end
  if #gone > 0 then redis.call('HDEL', KEYS[user], unpack(gone)) end
  at = at + count + 1
end
return redis.status_reply('OK')
