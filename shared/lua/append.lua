-- Append one group of events to one shard: stream, pending overlay, version and
-- cached copy change together (protocol 2, 3, 4).
--
-- KEYS[1] stream, KEYS[2] published checkpoint, then per event: pending, version, cached.
-- ARGV[1] not-after (ms, this server's clock), then per event:
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
-- The server says itself which run of which master it is: whoever asked before may have
-- asked another one, and an entry with an old stamp may be taken for an old entry.
local replication = redis.call('INFO', 'replication')
local stamp = ''
if string.find(replication, 'role:master', 1, true) then
  stamp = string.match(replication, 'master_replid:(%w%w%w%w%w%w%w%w)')
end
local published = redis.call('HMGET', KEYS[2], 'last_ms', 'last_seq', 'stamps', 'incarnation')
local published_ms, published_seq = published[1] or '0', published[2] or '0'
local known_stamps = published[3] or ''

-- Positions are pairs of 64-bit numbers: a Lua number would round them, and as text
-- '9' is greater than '10'. Without leading zeros the longer one is the greater one.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_pending(value)
  if not value then return false end
  local ms, seq, by = string.match(value, '^(%d+)-(%d+) (%w+) ')
  if not ms then return false end -- damaged: the entry must not fail for it
  -- Of an incarnation that no checkpoint knows of yet: ids do not compare.
  if known_stamps ~= '' and not string.find(known_stamps, by, 1, true) then return true end
  if ms ~= published_ms then return greater(ms, published_ms) end
  return greater(seq, published_seq)
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

local function append(number)
  local at, key = 2 + 7 * number, 3 + 3 * number
  local id = redis.call('XADD', stream, '*', 'd', ARGV[at + 6], 'i', stamp)
  write[ARGV[at]](id, KEYS[key], KEYS[key + 2], at)
  redis.call('SET', KEYS[key + 1], id)
  return id
end

local replies = {0, now_ms, stamp, tonumber(published[4] or 1), '0-0'}
for number = 0, (#KEYS - 2) / 3 - 1 do
  -- An error in the middle is not rolled back: each event gets its own answer.
  local done, answer = pcall(append, number)
  if not done then
    answer = '!' .. (type(answer) == 'table' and answer.err or tostring(answer))
  end
  replies[#replies + 1] = answer
end
local about = redis.pcall('XINFO', 'STREAM', stream)
for i = 1, #about, 2 do
  if about[i] == 'entries-added' then replies[1] = about[i + 1] end
  if about[i] == 'last-generated-id' then replies[5] = about[i + 1] end
end
return replies
