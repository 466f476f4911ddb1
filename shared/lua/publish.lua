-- Publish a committed checkpoint, and forget the cached copies it proves wrong.
--
-- KEYS[1] published checkpoint, KEYS[2] stream, then per user: version, cached.
-- ARGV[1] incarnation, ARGV[2] batch_no, ARGV[3] new version token, ARGV[4] entries,
-- ARGV[5] rows and ARGV[6] ms of the batch, ARGV[7] stamp of the stream it was read from
-- ('': none yet), then field, value ... of the checkpoint.
-- Returns 1, 0 where a later checkpoint is published already, or -1 where the stream is not
-- the one that it speaks of: readers must not take its new entries for old.

local published = redis.call('HMGET', KEYS[1], 'incarnation', 'batch_no')
local incarnation, batch_no = tonumber(published[1] or -1), tonumber(published[2] or -1)
local new_incarnation, new_batch_no = tonumber(ARGV[1]), tonumber(ARGV[2])
if new_incarnation < incarnation
  or (new_incarnation == incarnation and new_batch_no <= batch_no) then
  return 0 -- a zombie must not set it back
end
if ARGV[7] ~= '' and ARGV[7] ~= stamp_of(KEYS[2]) then return -1 end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[1], 'batch_no', ARGV[2], unpack(ARGV, 8))
if ARGV[4] ~= '0' then
  redis.call('HSET', KEYS[1],
    'batch_entries', ARGV[4], 'batch_rows', ARGV[5], 'batch_ms', ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'batches', 1)
  redis.call('HINCRBY', KEYS[1], 'entries', ARGV[4])
  redis.call('HINCRBY', KEYS[1], 'rows', ARGV[5])
  redis.call('HINCRBY', KEYS[1], 'write_ms', ARGV[6])
end
for i = 3, #KEYS, 2 do
  -- A reader that is loading from MySQL now must not fill the cache with what it found.
  redis.call('SET', KEYS[i], ARGV[3])
  redis.call('DEL', KEYS[i + 1])
end
return 1
