-- Fronts look every two seconds whether anybody was barred or let in again. The list only grows
-- (the signed cookie of a deleted user never ends), so they look at this number first: one row,
-- raised in the same transaction as each change of barred_users.
CREATE TABLE barred_revision (
    id TINYINT UNSIGNED NOT NULL,
    revision BIGINT UNSIGNED NOT NULL,
    PRIMARY KEY (id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin;
