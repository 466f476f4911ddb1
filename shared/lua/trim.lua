-- Trim a stream, if the master whose checkpoint allows it is still the master.
-- KEYS[1] stream. ARGV[1] stamp of that master, ARGV[2] least id to keep.
-- Returns how many entries went.
local stamp = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w%w%w%w%w%w%w%w)')
if stamp ~= ARGV[1] then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
