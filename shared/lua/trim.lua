-- Trim a stream, if it is still the one whose checkpoint allows it.
-- KEYS[1] stream. ARGV[1] its stamp, ARGV[2] least id to keep.
-- Returns how many entries went.
if stamp_of(KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[2])
