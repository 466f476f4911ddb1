-- An attempt was none, because a store could not serve it: take it from its counters.
--
-- KEYS counters.

for i = 1, #KEYS do
  -- Without a look, a DECR after the window's end would leave a counter that never ends.
  if tonumber(redis.call('GET', KEYS[i]) or 0) > 1 then
    redis.call('DECR', KEYS[i])
  else
    redis.call('DEL', KEYS[i])
  end
end
return 1
