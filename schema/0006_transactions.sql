-- What points, card keys, invitations and logins need to be right under any concurrency: the
-- database decides, not a check before it (architecture promise 7).

-- Names that differ only by case look the same to people: a registration compares this column.
-- One identity of a login provider belongs to one account.
ALTER TABLE users
    ADD COLUMN folded_name VARCHAR(50) COLLATE utf8mb4_bin
        GENERATED ALWAYS AS (LOWER(username)) STORED AFTER username,
    DROP KEY idx_oidc_sub,
    ADD UNIQUE KEY uk_oidc_sub (oidc_sub),
    ADD KEY idx_folded_name (folded_name);

-- Whatever the program believes: nobody owes points.
ALTER TABLE user_points
    ADD CONSTRAINT chk_user_points_balance CHECK (balance >= 0),
    ADD CONSTRAINT chk_user_points_totals CHECK (total_earned >= 0 AND total_redeemed >= 0);

-- A user's history is read newest first.
ALTER TABLE points_records
    ADD KEY idx_username_created_at (username, created_at),
    DROP KEY idx_username;

-- A user has a key once, however often it is bound or imported.
ALTER TABLE user_card_keys
    ADD UNIQUE KEY uk_username_key_hash (username, key_hash),
    DROP KEY idx_username;

-- What the real front ends keep in their configuration document per user (facts section 4,
-- UserCardKeyData): the key bound last, and until when the membership lasts.
CREATE TABLE memberships (
    username VARCHAR(50) NOT NULL,
    key_hash VARCHAR(128) NOT NULL,
    bound_at DATETIME(3) NOT NULL,
    expires_at DATETIME(3) NOT NULL,
    PRIMARY KEY (username),
    KEY idx_key_hash (key_hash),
    CONSTRAINT fk_memberships_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Every change that must happen once, written in its own transaction: who retries, because the
-- answer was lost or the commit's outcome is unknown, finds the result here.
CREATE TABLE operations (
    -- SHA-256 of whose operation it is and the Idempotency-Key, in hex.
    id CHAR(64) NOT NULL,
    -- HMAC of the request: the same key with another body is refused.
    fingerprint CHAR(64) NOT NULL,
    result MEDIUMTEXT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    KEY idx_created_at (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

-- Whose signed cookie counts no more: it cannot be revoked by itself. No foreign key: of a deleted
-- user only this is left. Fronts keep a copy in Redis, for when this database is away.
CREATE TABLE barred_users (
    username VARCHAR(50) NOT NULL,
    reason ENUM('banned', 'deleted') NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (username)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;

INSERT INTO barred_users (username, reason) SELECT username, 'banned' FROM users WHERE banned;

-- Who writes says which version was read: of two concurrent edits the second is refused, not lost.
ALTER TABLE admin_configs ADD COLUMN version BIGINT UNSIGNED NOT NULL DEFAULT 1 AFTER config_value;
