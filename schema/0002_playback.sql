-- What people watch: records, favorites, skip settings (seed design, 2.4 to 2.6).
--
-- Deviations from the seed as in 0001: identifiers utf8mb4_bin (video ids differ by case), times
-- DATETIME(3) in UTC, no index that is a prefix of a unique key. uk_user_content serves the foreign
-- key on username too.

CREATE TABLE play_records (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    source VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    content_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    title VARCHAR(500) NOT NULL,
    source_name VARCHAR(255) NOT NULL,
    cover VARCHAR(1000) NULL,
    year VARCHAR(20) NULL,
    episode_index INT NOT NULL,
    total_episodes INT NOT NULL,
    -- Seconds, like total_time.
    play_time INT NOT NULL,
    total_time INT NOT NULL,
    search_title VARCHAR(500) NULL,
    remarks VARCHAR(500) NULL,
    douban_id BIGINT NULL,
    content_type VARCHAR(50) NULL,
    -- The client's own time. The seed read it from updated_at, so any other update of the row
    -- reordered the history.
    save_time DATETIME(3) NULL,
    -- Episodes there were when the user began: "new episodes" badges compare with it.
    original_episodes INT NOT NULL,
    -- Fields moonwake does not know, and texts longer than their column, kept for the front end.
    extra JSON NULL,
    -- Milliseconds of the stream entry that wrote the row: an older entry never replaces it.
    event_ms BIGINT UNSIGNED NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_user_content (username, source, content_id),
    KEY idx_updated_at (updated_at),
    KEY idx_source (source),
    CONSTRAINT fk_play_records_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE favorites (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    source VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    content_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    title VARCHAR(500) NOT NULL,
    source_name VARCHAR(255) NOT NULL,
    cover VARCHAR(1000) NULL,
    year VARCHAR(20) NULL,
    total_episodes INT NULL,
    search_title VARCHAR(500) NULL,
    origin ENUM('vod', 'live', 'shortdrama') NULL,
    content_type VARCHAR(50) NULL,
    release_date DATE NULL,
    remarks VARCHAR(500) NULL,
    -- The client's own time, lost by the seed.
    save_time DATETIME(3) NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_user_content (username, source, content_id),
    KEY idx_created_at (created_at),
    CONSTRAINT fk_favorites_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE episode_skip_configs (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    source VARCHAR(100) COLLATE utf8mb4_bin NOT NULL,
    content_id VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    title VARCHAR(500) NULL,
    segments JSON NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_user_content (username, source, content_id),
    CONSTRAINT fk_episode_skip_configs_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;
