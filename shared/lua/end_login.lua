-- A login did not fail: forget the user's failures, and take this one from the address's.
--
-- KEYS[1] failures of the user there, KEYS[2] of the user, KEYS[3] of the address, if there is one.

redis.call('DEL', KEYS[1], KEYS[2])
if not KEYS[3] then return 1 end
-- Without a look, a DECR after the window's end would leave a counter that never ends.
if tonumber(redis.call('GET', KEYS[3]) or 0) > 1 then
  redis.call('DECR', KEYS[3])
else
  redis.call('DEL', KEYS[3])
end
return 1
