-- Count an attempt, unless one of its counters is full: checked and counted in one step.
--
-- KEYS counters. ARGV[1] window (ms), then the limit of each counter.
-- Returns 0 if it was counted, else the ms until all full counters will have ended.

local wait_ms = 0
for i = 1, #KEYS do
  if tonumber(redis.call('GET', KEYS[i]) or 0) >= tonumber(ARGV[i + 1]) then
    wait_ms = math.max(wait_ms, redis.call('PTTL', KEYS[i]), 1)
  end
end
if wait_ms > 0 then return wait_ms end
for i = 1, #KEYS do
  -- A window is not prolonged by what happens in it.
  if redis.call('INCR', KEYS[i]) == 1 then redis.call('PEXPIRE', KEYS[i], ARGV[1]) end
end
return 0
