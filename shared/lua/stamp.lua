-- Put before every other script: which stream of which master this is.
--
-- A consumer group that nobody reads is the stream's mark: it comes and goes with the stream,
-- so one that was deleted and made anew, by whomever, is told from the one before.

local MARK = 'moonwake:'

local function mark_of(stream)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for i = 1, #groups do
    local name = groups[i][2]
    if string.sub(name, 1, #MARK) == MARK then return string.sub(name, #MARK + 1) end
  end
  return nil
end

-- Make the mark where there is none, and the stream.
local function mark(stream)
  local known = mark_of(stream)
  if known then return known end
  local time = redis.call('TIME')
  local id = string.format('%04x%04x', time[1] % 65536, math.floor(time[2] / 16) % 65536)
  redis.call('XGROUP', 'CREATE', stream, MARK .. id, '$', 'MKSTREAM')
  return id
end

-- The first characters of the replication id, which every run of a master has its own of.
-- '' on a replica.
local function master()
  local replication = redis.call('INFO', 'replication')
  if not string.find(replication, 'role:master', 1, true) then return '' end
  return string.match(replication, 'master_replid:(%w%w%w%w%w%w%w%w)')
end

local function stamp_of(stream)
  return master() .. (mark_of(stream) or '')
end

-- Does an overlay field, of the entry (ms, seq) that *by* stamped, count no more by a checkpoint
-- with these *stamps*?
-- Positions are pairs of 64-bit numbers: a Lua number would round them, and as text '9' is
-- greater than '10'. Without leading zeros the longer one is the greater one.
local function greater(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

local function is_above(ms, seq, other_ms, other_seq)
  if ms ~= other_ms then return greater(ms, other_ms) end
  return greater(seq, other_seq)
end

local function is_settled(ms, seq, by, stamps, last_ms, last_seq)
  local over
  if stamps ~= '' then
    last_ms, last_seq, over = string.match(stamps, by .. '=(%d+)-(%d+)(!?)')
    if not last_ms then return false end
  end
  -- A stream that is over took what was not applied with it.
  return over == '!' or not is_above(ms, seq, last_ms, last_seq)
end

