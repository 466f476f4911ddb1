"""
Accounts: users, logins, memberships and card keys, points, invitations, the site's configuration.

What takes a cursor runs inside the caller's transaction (`ledger.Ledger.perform`), so that
several together happen wholly or not at all. Rows are locked in one order everywhere: the
rewarded address, the users' points accounts, then card keys.
"""
