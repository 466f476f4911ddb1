-- Append groups of events, each to its own shard: stream, pending overlay, version and cached
-- copy of a user change together (protocol 2, 3, 4).
--
-- KEYS per shard: stream, published checkpoint, then per event: pending, version, cached.
-- ARGV[1] not-after (ms, this server's clock), then per shard:
--   number of events; stamp, entries added and ms of the last id that the caller saw before
--   ('', 0, 0: nothing); then per event:
--   op (s, d, c), record key, original_episodes or '', total_episodes, '1' if the
--   record has its own save_time, offset of the record in the body, body.
-- Returns {now (ms)} if too late, else {now, then per shard an error or {entries added,
--   stamp ('': a replica), published incarnation (1 where none is), last id, then per event
--   its id or '!' .. error}}.

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if now_ms > tonumber(ARGV[1]) then
  return {now_ms}
end

-- The server says itself whose streams these are: whoever asked before may have asked another
-- one, and an entry with an old stamp may be taken for an old entry.
local replication_id = master()

-- Of the shard at hand, from `append_group`.
local stream, stamp, known_stamps, published_ms, published_seq

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
local function first_id(seen_stamp, seen_added, seen_ms)
  local sane_ms = now_ms + 60000
  if now_ms > tonumber(published_ms) and now_ms > seen_ms then return '*' end
  local added, last = look()
  local last_ms, last_seq = string.match(last, '^(%d+)-(%d+)$')
  local least_ms = -1
  if is_above(published_ms, published_seq, last_ms, last_seq) then
    least_ms = tonumber(published_ms)
  end
  if least_ms > sane_ms then least_ms = -1 end
  local is_another = seen_stamp ~= stamp or added < seen_added
  if seen_stamp ~= '' and is_another and tonumber(last_ms) <= seen_ms
    and seen_ms <= sane_ms then
    least_ms = math.max(least_ms, seen_ms)
  end
  if least_ms < 0 then return '*' end
  return string.format('%.0f-0', least_ms + 1)
end

local function append(wanted_id, key, at)
  local id = redis.call('XADD', stream, wanted_id, 'd', ARGV[at + 6], 'i', stamp)
  write[ARGV[at]](id, KEYS[key], KEYS[key + 2], at)
  redis.call('SET', KEYS[key + 1], id)
  return id
end

local GROUP_KEYS, EVENT_KEYS = 2, 3
local GROUP_ARGS, EVENT_ARGS = 4, 7

local function append_group(key, at, events)
  stream, stamp = KEYS[key], replication_id
  if stamp ~= '' then stamp = stamp .. mark(stream) end
  local published =
    redis.call('HMGET', KEYS[key + 1], 'last_ms', 'last_seq', 'stamps', 'incarnation')
  published_ms, published_seq = published[1] or '0', published[2] or '0'
  known_stamps = published[3] or ''
  local next_id = '*'
  if events > 0 then
    next_id = first_id(ARGV[at + 1], tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
  end
  local replies = {0, stamp, tonumber(published[4] or 1), ''}
  for number = 0, events - 1 do
    -- An error in the middle is not rolled back: each event gets its own answer.
    local done, answer = pcall(append, next_id,
      key + GROUP_KEYS + EVENT_KEYS * number, at + GROUP_ARGS + EVENT_ARGS * number)
    if not done then
      answer = '!' .. (type(answer) == 'table' and answer.err or tostring(answer))
    end
    replies[#replies + 1] = answer
    next_id = '*'
  end
  replies[1], replies[4] = look()
  return replies
end

local replies = {now_ms}
local key, at = 1, 2
while key <= #KEYS do
  local events = tonumber(ARGV[at])
  -- What keeps one shard from being appended to must not keep the others.
  local done, answer = pcall(append_group, key, at, events)
  if not done then
    answer = type(answer) == 'table' and answer or redis.error_reply(tostring(answer))
  end
  replies[#replies + 1] = answer
  key = key + GROUP_KEYS + EVENT_KEYS * events
  at = at + GROUP_ARGS + EVENT_ARGS * events
end
return replies
