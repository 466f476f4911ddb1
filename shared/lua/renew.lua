-- Renew or give back a lease, if it still carries this holder's id.
-- KEYS[1] lease. ARGV[1] holder's id, ARGV[2] time to live (ms), 0 to give it back.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then return redis.call('DEL', KEYS[1]) end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
