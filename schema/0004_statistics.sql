-- Statistics: counted by the sink in the batch's own transaction, folded to days by a scheduled run
-- (seed design, 2.13 and 7.3).
--
-- content_stats deviates from the seed as in 0001; the other tables but play_stats_daily are new.

CREATE TABLE content_stats (
    id BIGINT NOT NULL AUTO_INCREMENT,
    source VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    content_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    title VARCHAR(500) NULL,
    source_name VARCHAR(255) NULL,
    cover VARCHAR(1000) NULL,
    year VARCHAR(20) NULL,
    play_count INT NOT NULL DEFAULT 0,
    -- Seconds.
    total_watch_time BIGINT NOT NULL DEFAULT 0,
    unique_users INT NOT NULL DEFAULT 0,
    last_played_at DATETIME(3) NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_source_content (source, content_id),
    KEY idx_play_count (play_count DESC),
    KEY idx_last_played (last_played_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

-- Who ever had a record of what: a user counts once per content, also after a delete.
-- The user comes first in the key: it serves the foreign key and keeps one user's lookups together.
CREATE TABLE content_viewers (
    username VARCHAR(50) NOT NULL,
    source VARCHAR(100) NOT NULL,
    content_id VARCHAR(255) NOT NULL,
    first_seen_ms BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (username, source, content_id),
    CONSTRAINT fk_content_viewers_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- A user's plays and watched seconds on a day of STATS_TIMEZONE.
-- No foreign key: statistics outlive accounts.
CREATE TABLE user_watch_daily (
    stat_date DATE NOT NULL,
    username VARCHAR(50) NOT NULL,
    plays INT UNSIGNED NOT NULL DEFAULT 0,
    watch_time BIGINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (stat_date, username)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Days a batch changed, noted in its transaction: those whose batch_no is not folded_batch_no are
-- to be folded again. One row per shard, so that shards do not wait for one hot row.
CREATE TABLE stat_days_touched (
    stat_date DATE NOT NULL,
    stream VARCHAR(32) NOT NULL,
    shard SMALLINT UNSIGNED NOT NULL,
    batch_no BIGINT UNSIGNED NOT NULL,
    folded_batch_no BIGINT UNSIGNED NOT NULL DEFAULT 0,
    PRIMARY KEY (stat_date, stream, shard)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE play_stats_daily (
    stat_date DATE NOT NULL,
    -- BIGINT and NOT NULL where the seed has INT NULL: a row that is there has been counted.
    total_plays BIGINT NOT NULL DEFAULT 0,
    total_watch_time BIGINT NOT NULL DEFAULT 0,
    unique_users INT NOT NULL DEFAULT 0,
    -- The day was over in STATS_TIMEZONE when it was folded.
    final BOOLEAN NOT NULL DEFAULT FALSE,
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (stat_date)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

CREATE TABLE aggregation_runs (
    id BIGINT NOT NULL AUTO_INCREMENT,
    -- 'scheduled' or 'rebuild'.
    kind VARCHAR(20) NOT NULL,
    window_from DATE NULL,
    window_to DATE NULL,
    days INT NOT NULL DEFAULT 0,
    rows_written INT NOT NULL DEFAULT 0,
    started_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    duration_ms INT NOT NULL,
    outcome VARCHAR(20) NOT NULL,
    detail VARCHAR(500) NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
