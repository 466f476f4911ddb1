-- Fill a cached copy, unless anything was appended since its sources were read.
--
-- KEYS[1] version, KEYS[2] cached. ARGV[1] the version read before the sources ('' for
-- none), ARGV[2] time to live (ms), then field, value ...
-- Returns 1 if the copy was filled.

if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('DEL', KEYS[2])
for at = 3, #ARGV, 1000 do
  redis.call('HSET', KEYS[2], unpack(ARGV, at, math.min(at + 999, #ARGV)))
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return 1
