"""
What must be true of the tables of accounts, as queries for the rows of which it is not.

Only what holds of imported sites and of deleted users too: a user's rows go with the user, but
the cards they used, what they gave away and the addresses they were rewarded for stay.
Each query goes over whole tables at once, by joins that an index or a grouped table answers.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must not be found.

    *query* selects what disagrees, each column by a name of its own; `%s` in it is the owner.
    *example* tells one row of it. *means* and *remedy* are for who reads them at night.
    """

    name: str
    query: str
    example: str
    means: str
    remedy: str


_SUMS = (
    "Balance and records are written in one transaction, so one was changed by hand or by another"
    " program. See `moonwake points history NAME`; where the records are right, set user_points to"
    " their sums."
)
_BY_HAND = (
    "Both rows are written in one transaction, so one was changed by hand or by another program:"
    " find out which is right, and correct the other by SQL."
)

_POINTS = (
    Check(
        "points-sums",
        """
SELECT p.username, p.balance, COALESCE(s.balance, 0), p.total_earned, COALESCE(s.earned, 0),
    p.total_redeemed, COALESCE(s.redeemed, 0)
FROM user_points p LEFT JOIN (
    SELECT username, SUM(amount) AS balance,
        SUM(IF(type = 'earn', amount, 0)) AS earned,
        -SUM(IF(type = 'redeem', amount, 0)) AS redeemed
    FROM points_records GROUP BY username
) s ON s.username = p.username
WHERE p.balance <> COALESCE(s.balance, 0) OR p.total_earned <> COALESCE(s.earned, 0)
    OR p.total_redeemed <> COALESCE(s.redeemed, 0)
""",
        "{0}: balance {1} (records: {2}), earned {3} ({4}), redeemed {5} ({6})",
        "Points are not what the user's records add up to.",
        _SUMS,
    ),
    Check(
        "points-negative",
        """
SELECT username, balance, total_earned, total_redeemed FROM user_points
WHERE balance < 0 OR total_earned < 0 OR total_redeemed < 0
""",
        "{0}: balance {1}, earned {2}, redeemed {3}",
        "A balance or a total is below zero, which the database should refuse: a CHECK is gone.",
        "Compare the table user_points with schema/0006_transactions.sql; " + _SUMS,
    ),
    Check(
        "points-signs",
        """
SELECT username, id, type, amount FROM points_records
WHERE (type = 'earn' AND amount < 0) OR (type = 'redeem' AND amount > 0)
""",
        "{0}: record {1}, {2} {3}",
        "An earning takes points away, or a redemption gives some.",
        "Correct the amount by SQL, and user_points with it.",
    ),
    Check(
        "points-without-account",
        """
SELECT r.username, COUNT(*), SUM(r.amount)
FROM points_records r LEFT JOIN user_points p ON p.username = r.username
WHERE p.username IS NULL GROUP BY r.username
""",
        "{0}: {1} records, {2} points",
        "There are records of points, and no account that holds them.",
        "Insert the user's row into user_points with the sums of the records; the invitation code"
        " comes by itself.",
    ),
    Check(
        "user-without-account",
        """
SELECT u.username, u.role FROM users u LEFT JOIN user_points p ON p.username = u.username
WHERE p.username IS NULL AND u.password_hash <> '!'
""",
        "{0} ({1})",
        "Somebody who can log in has no points account, and no invitation code.",
        "It is made when first needed. `moonwake users reset-password NAME` makes it now.",
    ),
    Check(
        "invitation-code-empty",
        "SELECT username FROM user_points WHERE invitation_code = ''",
        "{0}",
        "An invitation code is empty text: the user can invite nobody, and never gets a code.",
        "UPDATE user_points SET invitation_code = NULL WHERE invitation_code = '': the next"
        " look at it makes a new one.",
    ),
)

_CARD_KEYS = (
    Check(
        "card-key-hash",
        """
SELECT id, key_hash FROM card_keys
WHERE plain_key <> '' AND key_hash <> LOWER(SHA2(plain_key, 256))
""",
        "card_keys.id {0}: {1}",
        "A key is stored under a hash that is not its own: nobody can bind it.",
        "UPDATE card_keys SET key_hash = SHA2(plain_key, 256) WHERE id = ..., and the same in"
        " user_card_keys and memberships where the old hash stands.",
    ),
    Check(
        "card-key-binding",
        """
SELECT key_hash, status, COALESCE(bound_to, 'nobody'), COALESCE(bound_at, 'never')
FROM card_keys
WHERE (status = 'used' AND bound_at IS NULL)
    OR (status <> 'used' AND (bound_to IS NOT NULL OR bound_at IS NOT NULL))
""",
        "{0}: {1}, bound to {2}, bound {3}",
        "A used key was never bound, or a key that is not used was. (A used key of nobody whose"
        " bound_at is known is right: its user was deleted.)",
        "If a user has it in memberships, it is used: set status, bound_to and bound_at by SQL."
        " Otherwise set it unused, with neither.",
    ),
    Check(
        "card-key-not-held",
        """
SELECT k.bound_to, k.key_hash, COALESCE(h.status, 'missing')
FROM card_keys k
LEFT JOIN user_card_keys h ON h.username = k.bound_to AND h.key_hash = k.key_hash
WHERE k.status = 'used' AND k.bound_to IS NOT NULL AND (h.id IS NULL OR h.status <> 'used')
""",
        "{0}: key {1} is bound, the user's row is {2}",
        "A key is bound to a user among whose keys it is not, or not as used.",
        _BY_HAND,
    ),
    Check(
        "card-key-used-unbound",
        """
SELECT h.username, h.key_hash, k.status, COALESCE(h.used_by, 'nobody')
FROM user_card_keys h JOIN card_keys k ON k.key_hash = h.key_hash
WHERE h.status = 'used' AND k.status <> 'used'
""",
        "{0}: key {1} is used by {3}, and still {2}",
        "A user's key is used, but the key itself is not: it could be bound once more.",
        "Look who used it (memberships, user_card_keys.used_by) and set the key used by SQL before"
        " somebody binds it again.",
    ),
    Check(
        "card-key-used-twice",
        """
SELECT h.key_hash, k.bound_to, h.used_by, h.username
FROM user_card_keys h JOIN card_keys k ON k.key_hash = h.key_hash
WHERE h.status = 'used' AND k.bound_to <> h.used_by
""",
        "{0}: bound to {1}, used by {2} according to {3}'s keys",
        "One key was used by two users.",
        "The key belongs to who bound it first (user_card_keys.used_at, the front's logs). Correct"
        " the other's membership by SQL, and tell them.",
    ),
    Check(
        "held-key-unusable",
        """
SELECT h.username, h.key_hash, COALESCE(k.status, 'missing')
FROM user_card_keys h LEFT JOIN card_keys k ON k.key_hash = h.key_hash
WHERE h.status = 'unused' AND (k.id IS NULL OR k.status <> 'unused')
""",
        "{0}: key {1} is {2}",
        "A user is shown a key as unused that nobody can bind any more.",
        "`moonwake cardkeys clean-up` mends those of expired keys. Of a used key set the user's row"
        " used, by whom the key is bound to; of a missing one set it expired.",
    ),
    Check(
        "held-key-without-user",
        """
SELECT username, key_hash, id FROM user_card_keys WHERE status = 'used' AND used_by IS NULL
""",
        "{0}: key {1} (user_card_keys.id {2})",
        "A key is used, and nobody is named who used it.",
        "Set used_by to the key's bound_to, or to the user themselves.",
    ),
    Check(
        "held-key-type",
        """
SELECT h.username, h.key_hash, h.key_type AS held, k.key_type
FROM user_card_keys h JOIN card_keys k ON k.key_hash = h.key_hash
WHERE h.key_type <> k.key_type
""",
        "{0}: key {1} is shown as {2}, and is {3}",
        "A user is shown a key of another length than it has.",
        _BY_HAND,
    ),
    Check(
        "redeemed-key-missing",
        """
SELECT r.username, r.id, -r.amount, r.card_key_id, r.times
FROM (
    SELECT MIN(username) AS username, MIN(id) AS id, MIN(amount) AS amount, card_key_id,
        COUNT(*) AS times
    FROM points_records WHERE type = 'redeem' AND card_key_id IS NOT NULL GROUP BY card_key_id
) r
LEFT JOIN user_card_keys h ON h.id = r.card_key_id AND h.username = r.username
WHERE h.id IS NULL OR r.times > 1
""",
        "{0}: {2} points for key {3}, paid {4} times (record {1})",
        "Points were taken for a key that the user does not have, or twice for the same one.",
        "Give the points back with `moonwake points adjust NAME AMOUNT --reason ...`.",
    ),
)

_MEMBERSHIPS = (
    Check(
        "membership-key",
        """
SELECT m.username, m.key_hash, COALESCE(k.status, 'missing'), COALESCE(k.bound_to, 'nobody'),
    COALESCE(k.bound_at, 'never'), m.bound_at
FROM memberships m LEFT JOIN card_keys k ON k.key_hash = m.key_hash
WHERE k.id IS NULL OR k.status <> 'used' OR NOT k.bound_to <=> m.username
    OR NOT k.bound_at <=> m.bound_at
""",
        "{0}: key {1} is {2}, bound to {3} at {4}, the membership since {5}",
        "A membership names a key that is not used, not bound to this user, or at another time.",
        _BY_HAND,
    ),
    Check(
        "membership-not-held",
        """
SELECT m.username, m.key_hash, COALESCE(h.status, 'missing'), m.expires_at,
    COALESCE(h.expires_at, 'never')
FROM memberships m
LEFT JOIN user_card_keys h ON h.username = m.username AND h.key_hash = m.key_hash
WHERE h.id IS NULL OR h.status <> 'used' OR h.expires_at <> m.expires_at
""",
        "{0}: membership until {3}; key {1} among theirs: {2}, until {4}",
        "A user's membership and the key that they are shown end at different times, or they do"
        " not have that key.",
        "The membership counts at login. " + _BY_HAND,
    ),
)

# An address counts as reward_unit of shared/accounts/addresses.py makes it: the /64 of an IPv6
# one. Both servers write its text as Python does, because the lower half is zero.
_NETWORK = """IF(LENGTH(INET6_ATON(i.ip_address)) = 16, CONCAT(INET6_NTOA(CONCAT(
        LEFT(INET6_ATON(i.ip_address), 8), UNHEX('0000000000000000'))), '/64'), NULL)"""

# Brought together without a join: one inviter may have most of the site's invitations.
_REWARDS = """
    SELECT inviter, invitee, 1 AS rewarded, 0 AS earned, 0 AS addresses
    FROM invitations WHERE rewarded
    UNION ALL SELECT username, related_user, 0, 1, 0
    FROM points_records WHERE type = 'earn' AND related_user IS NOT NULL
    UNION ALL SELECT inviter, invitee, 0, 0, 1 FROM ip_reward_records
"""

_INVITATIONS = (
    Check(
        "invitation-reward-time",
        """
SELECT inviter, invitee, IF(rewarded, 'rewarded', 'not rewarded'),
    COALESCE(reward_time, 'never')
FROM invitations WHERE rewarded <> (reward_time IS NOT NULL)
""",
        "{0} invited {1}: {2}, reward time {3}",
        "An invitation was rewarded at no time, or has a time and no reward.",
        "See whether the inviter has the earning (`moonwake points history NAME`), and correct"
        " the invitation by SQL.",
    ),
    Check(
        "reward-without-address",
        f"""
SELECT i.inviter, i.invitee, i.ip_address
FROM invitations i
LEFT JOIN ip_reward_records a
    ON a.ip_address = i.ip_address AND a.inviter = i.inviter AND a.invitee = i.invitee
LEFT JOIN ip_reward_records n
    ON n.ip_address = {_NETWORK} AND n.inviter = i.inviter AND n.invitee = i.invitee
WHERE i.rewarded AND a.id IS NULL AND n.id IS NULL
""",
        "{0} was rewarded for {1} from {2}",
        "An invitation was rewarded, but its address is not noted: it could be rewarded again.",
        "Insert the row into ip_reward_records; where the address is there for somebody else, two"
        " were rewarded for one address.",
    ),
    Check(
        "reward-without-points",
        f"""
SELECT inviter, invitee FROM ({_REWARDS}) r
GROUP BY inviter, invitee HAVING SUM(rewarded) > 0 AND SUM(earned) = 0
""",
        "{0} for {1}",
        "An invitation was rewarded, but the inviter has no record of points for it.",
        "Give them with `moonwake points adjust NAME AMOUNT --reason ...`.",
    ),
    # Once without an address is no finding: older sites rewarded for addresses they did not know.
    Check(
        "reward-doubled",
        f"""
SELECT inviter, invitee, SUM(earned) AS times, SUM(addresses) AS addresses FROM ({_REWARDS}) r
GROUP BY inviter, invitee HAVING SUM(earned) > GREATEST(SUM(addresses), 1)
""",
        "{0} earned {2} times for {1}, from {3} addresses",
        "An inviter earned more often for one user than addresses were rewarded.",
        "Take the points back with `moonwake points adjust NAME -AMOUNT --reason ...`.",
    ),
)

_USERS = (
    Check(
        "ban-unknown-to-fronts",
        """
SELECT u.username, COALESCE(b.reason, 'not barred')
FROM users u LEFT JOIN barred_users b ON b.username = u.username
WHERE u.banned AND NOT b.reason <=> 'banned'
""",
        "{0}: {1}",
        "A user is banned, but fronts let them in: they go by barred_users.",
        "`moonwake users ban NAME`, or `moonwake users unban NAME`.",
    ),
    Check(
        "barred-not-banned",
        """
SELECT b.username, IF(u.id IS NULL, 'no such user', 'not banned')
FROM barred_users b LEFT JOIN users u ON u.username = b.username
WHERE b.reason = 'banned' AND NOT u.banned <=> TRUE
""",
        "{0}: {1}",
        "Fronts keep somebody out who is not banned.",
        "`moonwake users unban NAME`, or `moonwake users ban NAME`; where there is no such user,"
        " delete the row from barred_users (fronts see it within a minute).",
    ),
    Check(
        "deleted-user-is-there",
        """
SELECT u.username, u.role, u.created_at
FROM barred_users b JOIN users u ON u.username = b.username
WHERE b.reason = 'deleted' AND u.password_hash <> '!'
""",
        "{0} ({1}), since {2}",
        # Without a password it is what a player's last positions left: workers remove that.
        "A user was deleted and is there again with a password, though nobody with this name can"
        " come in.",
        "`moonwake users delete NAME` once more; or, if they are wanted, `moonwake users unban"
        " NAME`.",
    ),
    Check(
        "owner-role",
        "SELECT username FROM users WHERE role = 'owner' AND username <> %s",
        "{0}",
        "Somebody has the role of the owner whom USERNAME does not name: nobody treats them as"
        " one, but lists show it. Mostly the owner of before USERNAME was changed.",
        "`moonwake users role NAME user` (or admin).",
    ),
    Check(
        "owner-barred",
        "SELECT username, reason, created_at FROM barred_users WHERE username = %s",
        "{0}: {1} since {2}",
        "The site's owner is kept out.",
        "`moonwake users unban NAME`.",
    ),
)

_SITE = (
    Check(
        "operation-without-result",
        "SELECT id, created_at FROM operations WHERE result IS NULL",
        "{0} of {1}",
        "A change was begun and stored without its result: who repeats it gets an error.",
        "Result and change are one transaction, so the row is not moonwake's: delete it.",
    ),
    Check(
        "configuration-missing",
        """
SELECT t.name FROM (
    SELECT 'admin_configs' AS name, COUNT(*) AS found FROM admin_configs
    WHERE config_key = 'main_config'
    UNION ALL SELECT 'invitation_configs', COUNT(*) FROM invitation_configs WHERE id = 1
) t WHERE t.found = 0
""",
        "{0} is empty",
        "A configuration has no row: pages that need it answer with errors.",
        "Insert the row as schema/0001_accounts.sql does; the defaults hold then.",
    ),
)

CHECKS = (*_POINTS, *_CARD_KEYS, *_MEMBERSHIPS, *_INVITATIONS, *_USERS, *_SITE)
