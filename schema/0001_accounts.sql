-- Accounts, card keys, points, invitations and settings (seed design, 2.1 to 2.3 and 2.7 to 2.14).
--
-- Runs unchanged on MySQL 8.4+/9 and MariaDB 10.11+. Where these tables differ from the seed's:
--
-- * Identifiers (user names, ids, hashes, codes) are utf8mb4_bin: 'Ann' and 'ann' are two users,
--   and a collation that folds case would merge what the program keeps apart. Text that people
--   read stays utf8mb4_unicode_ci as in the seed.
-- * Times are DATETIME(3) in UTC, every connection pins time_zone '+00:00': TIMESTAMP ends in
--   2038 and drops milliseconds.
-- * Times with a default and booleans are NOT NULL: nothing gives "unknown" a meaning.
-- * VARCHAR(36) ids hold UUIDs, and "{ms}-{9 base-36 characters}" as the real front ends make.
-- * An index that is a prefix of a unique key is left out (users.username, card_keys.key_hash,
--   user_points.username, ...). Indexes under a foreign key stay: InnoDB needs them.
-- * The two CHECKs named single_row have names of their own: MySQL wants them unique per database.

CREATE TABLE users (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    -- 255, not 128: legacy scrypt hashes with their salt take 161 characters, argon2 about 100.
    -- '!' is the hash that no password verifies.
    password_hash VARCHAR(255) COLLATE utf8mb4_bin NOT NULL,
    role ENUM('owner', 'admin', 'user') NOT NULL DEFAULT 'user',
    banned BOOLEAN NOT NULL DEFAULT FALSE,
    tags JSON NULL,
    enabled_apis JSON NULL,
    oidc_sub VARCHAR(255) COLLATE utf8mb4_bin NULL,
    tvbox_token VARCHAR(255) COLLATE utf8mb4_bin NULL,
    show_adult_content BOOLEAN NOT NULL DEFAULT FALSE,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_username (username),
    KEY idx_oidc_sub (oidc_sub),
    KEY idx_created_at (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE card_keys (
    id BIGINT NOT NULL AUTO_INCREMENT,
    key_hash VARCHAR(128) COLLATE utf8mb4_bin NOT NULL,
    plain_key VARCHAR(64) COLLATE utf8mb4_bin NOT NULL,
    key_type ENUM('year', 'quarter', 'month', 'week') NOT NULL,
    status ENUM('unused', 'used', 'expired') NOT NULL DEFAULT 'unused',
    -- Sent by the real front ends, lost by the seed: binding a key depends on where it came from.
    source ENUM('admin_created', 'promotion_register', 'points_redeem') NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    expires_at DATETIME(3) NOT NULL,
    bound_to VARCHAR(50) COLLATE utf8mb4_bin NULL,
    bound_at DATETIME(3) NULL,
    PRIMARY KEY (id),
    UNIQUE KEY uk_key_hash (key_hash),
    KEY idx_status (status),
    KEY idx_bound_to (bound_to),
    CONSTRAINT fk_card_keys_bound_to FOREIGN KEY (bound_to)
        REFERENCES users (username) ON DELETE SET NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE user_card_keys (
    id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL,
    key_hash VARCHAR(128) COLLATE utf8mb4_bin NOT NULL,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    key_type ENUM('year', 'quarter', 'month', 'week') NOT NULL,
    status ENUM('unused', 'used', 'expired') NOT NULL DEFAULT 'unused',
    -- The seed lacks promotion_register, which promotion registration stores.
    source ENUM('invitation', 'redeem', 'manual', 'promotion_register') NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    expires_at DATETIME(3) NOT NULL,
    used_at DATETIME(3) NULL,
    used_by VARCHAR(50) COLLATE utf8mb4_bin NULL,
    notes TEXT NULL,
    PRIMARY KEY (id),
    KEY idx_username (username),
    KEY idx_key_hash (key_hash),
    CONSTRAINT fk_user_card_keys_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE user_points (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    -- NULL, not '', for who has points but no code yet: the real front ends make such accounts, and
    -- '' may stand in a unique key only once.
    invitation_code VARCHAR(20) COLLATE utf8mb4_bin NULL,
    balance INT NOT NULL DEFAULT 0,
    total_earned INT NOT NULL DEFAULT 0,
    total_redeemed INT NOT NULL DEFAULT 0,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_username (username),
    UNIQUE KEY uk_invitation_code (invitation_code),
    CONSTRAINT fk_user_points_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE points_records (
    id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    type ENUM('earn', 'redeem', 'admin_adjust') NOT NULL,
    -- Negative for a redemption and for what an admin takes away, whatever the seed's comment says.
    amount INT NOT NULL,
    reason VARCHAR(500) NOT NULL,
    related_user VARCHAR(50) COLLATE utf8mb4_bin NULL,
    card_key_id VARCHAR(36) COLLATE utf8mb4_bin NULL,
    admin_username VARCHAR(50) COLLATE utf8mb4_bin NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    KEY idx_username (username),
    KEY idx_created_at (created_at),
    CONSTRAINT fk_points_records_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE invitations (
    id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL,
    inviter VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    invitee VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    invitation_code VARCHAR(20) COLLATE utf8mb4_bin NOT NULL,
    ip_address VARCHAR(45) COLLATE utf8mb4_bin NOT NULL,
    rewarded BOOLEAN NOT NULL DEFAULT FALSE,
    reward_time DATETIME(3) NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_invitee (invitee),
    KEY idx_inviter (inviter),
    KEY idx_invitation_code (invitation_code),
    CONSTRAINT fk_invitations_inviter FOREIGN KEY (inviter)
        REFERENCES users (username) ON DELETE CASCADE,
    CONSTRAINT fk_invitations_invitee FOREIGN KEY (invitee)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE ip_reward_records (
    id VARCHAR(36) COLLATE utf8mb4_bin NOT NULL,
    ip_address VARCHAR(45) COLLATE utf8mb4_bin NOT NULL,
    inviter VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    invitee VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    reward_time DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    -- Unique where the seed has a plain index: an address is rewarded once for ever, and two
    -- registrations at the same moment must not both find it free.
    UNIQUE KEY uk_ip_address (ip_address),
    KEY idx_inviter (inviter)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE user_login_stats (
    id BIGINT NOT NULL AUTO_INCREMENT,
    username VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    login_count INT NOT NULL DEFAULT 0,
    first_login_at DATETIME(3) NULL,
    last_login_at DATETIME(3) NULL,
    last_login_date DATE NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_username (username),
    CONSTRAINT fk_user_login_stats_username FOREIGN KEY (username)
        REFERENCES users (username) ON DELETE CASCADE
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE admin_configs (
    id INT NOT NULL DEFAULT 1,
    config_key VARCHAR(50) COLLATE utf8mb4_bin NOT NULL,
    config_value JSON NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    UNIQUE KEY uk_config_key (config_key),
    CONSTRAINT chk_admin_configs_single_row CHECK (id = 1)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

CREATE TABLE invitation_configs (
    id INT NOT NULL DEFAULT 1,
    enabled BOOLEAN NOT NULL DEFAULT TRUE,
    reward_points INT NOT NULL DEFAULT 100,
    redeem_threshold INT NOT NULL DEFAULT 300,
    card_key_type ENUM('year', 'quarter', 'month', 'week') NOT NULL DEFAULT 'week',
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    updated_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    CONSTRAINT chk_invitation_configs_single_row CHECK (id = 1)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_unicode_ci;

INSERT INTO admin_configs (id, config_key, config_value) VALUES (1, 'main_config', '{}');

INSERT INTO invitation_configs (id) VALUES (1);
