-- What no client can name is kept for an hour, what one can name for a week: workers find what is
-- old enough without passing over the rest of the week.
ALTER TABLE operations
    ADD COLUMN is_named BOOLEAN GENERATED ALWAYS AS (fingerprint <> '') STORED AFTER fingerprint,
    DROP KEY idx_created_at,
    ADD KEY idx_is_named_created_at (is_named, created_at);
