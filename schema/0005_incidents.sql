-- What Redis lost, or may have lost: counted, never silent (architecture promise 2).

-- One row per loss that was found, and per time that a stream began anew. `exact`: 'exactly
-- `lost`', else 'at least `lost`'. Between after_id and before_id lies what is gone.
CREATE TABLE incidents (
    id BIGINT UNSIGNED NOT NULL AUTO_INCREMENT,
    stream VARCHAR(32) NOT NULL,
    shard SMALLINT UNSIGNED NOT NULL,
    -- The incarnation that ended, or in which entries went missing.
    incarnation INT UNSIGNED NOT NULL,
    cause ENUM('trimmed', 'recreated', 'master_changed', 'mysql_restored') NOT NULL,
    lost BIGINT UNSIGNED NOT NULL,
    exact BOOLEAN NOT NULL,
    after_id VARCHAR(41) NOT NULL,
    before_id VARCHAR(41) NOT NULL,
    -- Where the next incarnation began to read; the run of the master that held the one that
    -- ended, and of the one that answers now.
    position_id VARCHAR(41) NOT NULL,
    ended_stamp VARCHAR(40) NOT NULL,
    stamp VARCHAR(40) NOT NULL,
    -- What was known when it was counted: a front that testifies later may know more.
    base BIGINT NOT NULL,
    seen_added BIGINT UNSIGNED NOT NULL,
    heard JSON NOT NULL,
    expected JSON NOT NULL,
    detected_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    amended_at DATETIME(3) NULL,
    PRIMARY KEY (id),
    KEY idx_stream_shard_incarnation (stream, shard, incarnation),
    KEY idx_detected_at (detected_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- `stamps`: of every stream (a run of a master, and a mark that is made anew with the stream)
-- up to which id its entries were dealt with, STAMP=ID separated by commas.
-- `floor_ms`: entries are dated at least this (a new master's clock may be behind).
-- `again_through_id`: entries up to this one were applied before this database was restored.
ALTER TABLE stream_checkpoints
    ADD COLUMN stamps VARCHAR(4000) NOT NULL DEFAULT '' AFTER replid,
    ADD COLUMN floor_ms BIGINT UNSIGNED NOT NULL DEFAULT 0 AFTER last_seq,
    ADD COLUMN again_through_id VARCHAR(41) NOT NULL DEFAULT '0-0' AFTER floor_ms;
