-- Append one group of events to one shard: stream, pending overlay, version and
-- cached copy change together (protocol 2, 3, 4).
--
-- KEYS[1] stream, KEYS[2] published checkpoint, then per event: pending, version, cached.
-- ARGV[1] not-after (ms, this server's clock), ARGV[2] to [4] stamp, entries added and ms of
-- the last id that the caller saw before ('', 0, 0: nothing), then per event:
--   op (s, d, c), record key, original_episodes or '', total_episodes, '1' if the
--   record has its own save_time, offset of the record in the body, body.
-- Returns {entries added or -1 if too late, now (ms), stamp ('': a replica), published incarnation
--   (1 where none is), last id, then per event its id or '!' .. error}.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > tonumber(ARGV[1]) then
  return {-1, now_ms}
end

local stream = KEYS[1]
-- The server says itself whose stream it is: whoever asked before may have asked another one,
-- and an entry with an old stamp may be taken for an old entry.
local stamp = master()
if stamp ~= '' then stamp = stamp .. mark(stream) end
local published = redis.call('HMGET', KEYS[2], 'last_ms', 'last_seq', 'stamps', 'incarnation')
local published_ms, published_seq = published[1] or '0', published[2] or '0'
local known_stamps = published[3] or ''

local function is_pending(value)
  if not value then return false end
  local ms, seq, by = string.match(value, '^(%d+)-(%d+) (%w+) ')
  if not ms then return false end -- damaged: the entry must not fail for it
  if is_settled(ms, seq, by, known_stamps, published_ms, published_seq) then return false end
  if string.find(known_stamps, by .. '=', 1, true) then return true end
  -- An old stamp, long forgotten, or a new one: its ids are above the published checkpoint.
  return is_above(ms, seq, published_ms, published_seq)
end

-- How original_episodes of a save follows from what is pending before it:
-- 'x' N: it is N;  'u' N: it is the stored record's, or N where there is none.
local function original_of(pending, key, given, total)
  if given ~= '' then return 'x', given end
  local before = redis.call('HMGET', pending, key, 'clear')
  if is_pending(before[1]) then
    local kind, number = string.match(before[1], '^%S+ %S+ s (%a) (%d+) ')
    if kind then return kind, number end
    return 'x', total -- a pending delete: there is no stored record
  end
  if is_pending(before[2]) then return 'x', total end
  return 'u', total
end

local function save(id, pending, cached, at)
  local key, given, total = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local record = string.sub(ARGV[at + 6], tonumber(ARGV[at + 5]) + 1, -2)
  local kind, number = original_of(pending, key, given, total)
  redis.call('HSET', pending, key,
    id .. ' ' .. stamp .. ' s ' .. kind .. ' ' .. number .. ' ' .. record)
  if redis.call('EXISTS', cached) == 1 then
    if given == '' then
      local stored = redis.call('HGET', cached, key)
      number = stored and string.match(stored, '^(%d+) ') or total
      record = string.sub(record, 1, -2) .. ',"original_episodes":' .. number .. '}'
    end
    if ARGV[at + 4] ~= '1' then
      record = string.sub(record, 1, -2) .. ',"save_time":' .. string.match(id, '^%d+') .. '}'
    end
    redis.call('HSET', cached, key, number .. ' ' .. record)
  end
end

local function delete(id, pending, cached, at)
  redis.call('HSET', pending, ARGV[at + 1], id .. ' ' .. stamp .. ' d')
  -- The marker field keeps the hash, so 'no records' stays cached.
  redis.call('HDEL', cached, ARGV[at + 1])
end

local function clear(id, pending, cached)
  redis.call('DEL', pending, cached)
  redis.call('HSET', pending, 'clear', id .. ' ' .. stamp .. ' c')
end

local write = {s = save, d = delete, c = clear}

-- Entries added and the last id of the stream, as it is now.
local function look()
  local about, added, last = redis.pcall('XINFO', 'STREAM', stream), 0, '0-0'
  for i = 1, #about, 2 do
    if about[i] == 'entries-added' then added = about[i + 1] end
    if about[i] == 'last-generated-id' then last = about[i + 1] end
  end
  return added, last
end

-- Ids go on from where readers and fronts have seen them, though the stream began anew under
-- a clock that is behind: '*', or the id of the first event. Ids a minute ahead are no
-- clock's: an operator is bringing them back.
local function first_id()
  local seen_ms = tonumber(ARGV[4])
  local sane_ms = now_ms + 60000
  if now_ms > tonumber(published_ms) and now_ms > seen_ms then return '*' end
  local added, last = look()
  local last_ms, last_seq = string.match(last, '^(%d+)-(%d+)$')
  local least_ms = -1
  if is_above(published_ms, published_seq, last_ms, last_seq) then
    least_ms = tonumber(published_ms)
  end
  if least_ms > sane_ms then least_ms = -1 end
  local is_another = ARGV[2] ~= stamp or added < tonumber(ARGV[3])
  if ARGV[2] ~= '' and is_another and tonumber(last_ms) <= seen_ms
    and seen_ms <= sane_ms then
    least_ms = math.max(least_ms, seen_ms)
  end
  if least_ms < 0 then return '*' end
  return string.format('%.0f-0', least_ms + 1)
end

local next_id = #KEYS > 2 and first_id() or '*'

local function append(number)
  local at, key = 5 + 7 * number, 3 + 3 * number
  local id = redis.call('XADD', stream, next_id, 'd', ARGV[at + 6], 'i', stamp)
  next_id = '*'
  write[ARGV[at]](id, KEYS[key], KEYS[key + 2], at)
  redis.call('SET', KEYS[key + 1], id)
  return id
end

local replies = {0, now_ms, stamp, tonumber(published[4] or 1), ''}
for number = 0, (#KEYS - 2) / 3 - 1 do
  -- An error in the middle is not rolled back: each event gets its own answer.
  local done, answer = pcall(append, number)
  if not done then
    answer = '!' .. (type(answer) == 'table' and answer.err or tostring(answer))
  end
  replies[#replies + 1] = answer
end
replies[1], replies[5] = look()
return replies
