-- Mark a stream, and make it, where that was not done. KEYS[1] stream.
-- Returns its stamp, '' on a replica.
local by = master()
if by == '' then return '' end
return by .. mark(KEYS[1])
