-- Note that a drain ended in peace: when, and that nobody holds the shard any more.
-- KEYS[1] published checkpoint. ARGV[1] the worker, which another one may have followed.
local time = redis.call('TIME')
redis.call('HSET', KEYS[1], 'visited_ms', time[1] * 1000 + math.floor(time[2] / 1000))
if redis.call('HGET', KEYS[1], 'holder') == ARGV[1] then
  redis.call('HDEL', KEYS[1], 'holder')
end
return 1
