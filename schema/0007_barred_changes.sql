-- Fronts look every two seconds whether anybody was barred or let in again. That list only grows
-- (the signed cookie of a deleted user never ends), so they look at the latest changes first: each
-- is a row with a random token, written in its transaction, and a front compares the tokens' XOR.
-- A counter would do as well, but who changes it waits for everybody who has not committed yet.
CREATE TABLE barred_changes (
    id BIGINT NOT NULL AUTO_INCREMENT,
    token BIGINT UNSIGNED NOT NULL,
    created_at DATETIME(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3),
    PRIMARY KEY (id),
    KEY idx_created_at (created_at)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
