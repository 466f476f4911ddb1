-- What the drain keeps beside the data it writes, so that both commit together.
-- None of this is in the seed: it is what makes each event count exactly once.

-- One row per shard of a stream: how far its entries are in this database. The first statement of
-- every batch changes the row only if it is still where the worker left it, so it is the fence too.
-- ordinal = applied + dead + lost, entries of the stream up to (last_ms, last_seq).
CREATE TABLE stream_checkpoints (
    stream VARCHAR(32) NOT NULL,
    shard SMALLINT UNSIGNED NOT NULL,
    incarnation INT UNSIGNED NOT NULL DEFAULT 1,
    replid VARCHAR(40) NOT NULL DEFAULT '',
    last_ms BIGINT UNSIGNED NOT NULL DEFAULT 0,
    last_seq BIGINT UNSIGNED NOT NULL DEFAULT 0,
    batch_no BIGINT UNSIGNED NOT NULL DEFAULT 0,
    -- Signed: a stream made anew counts from 1 again, so it may have to be moved either way.
    base BIGINT NOT NULL DEFAULT 0,
    ordinal BIGINT UNSIGNED NOT NULL DEFAULT 0,
    applied BIGINT UNSIGNED NOT NULL DEFAULT 0,
    dead BIGINT UNSIGNED NOT NULL DEFAULT 0,
    lost BIGINT UNSIGNED NOT NULL DEFAULT 0,
    seen_added BIGINT UNSIGNED NOT NULL DEFAULT 0,
    seen_last_id VARCHAR(41) NOT NULL DEFAULT '0-0',
    seen_at DATETIME(3) NULL,
    PRIMARY KEY (stream, shard)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Entries that can never be applied, each kept with its reason.
CREATE TABLE dead_letters (
    stream VARCHAR(32) NOT NULL,
    shard SMALLINT UNSIGNED NOT NULL,
    incarnation INT UNSIGNED NOT NULL,
    entry_id VARCHAR(41) NOT NULL,
    -- Longer than a user name may be: a name too long is one of the reasons for being here.
    username VARCHAR(255) NULL,
    reason VARCHAR(64) NOT NULL,
    detail VARCHAR(500) NOT NULL,
    -- At most 60 KB of the raw fields; length and SHA-256 are those of the whole.
    fields MEDIUMBLOB NOT NULL,
    fields_length INT UNSIGNED NOT NULL,
    fields_sha256 CHAR(64) NOT NULL,
    state ENUM('dead', 'replayed', 'discarded') NOT NULL DEFAULT 'dead',
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    resolved_at DATETIME(3) NULL,
    resolved_batch_no BIGINT UNSIGNED NULL,
    PRIMARY KEY (stream, shard, incarnation, entry_id),
    KEY idx_state_created_at (state, created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- What is fixed at first start and must be the same in both stores, such as 'shards'.
CREATE TABLE instance_settings (
    name VARCHAR(64) NOT NULL,
    value VARCHAR(255) NOT NULL,
    PRIMARY KEY (name)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
