"""
Accounts: users, logins, memberships and card keys, points, invitations, the site's configuration.

What takes a cursor runs inside the caller's transaction (`ledger.Ledger.perform`), so that
several together happen wholly or not at all. Rows are locked in one order everywhere: the users'
points accounts, the rewarded address, then card keys.
"""
