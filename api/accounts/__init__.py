"""The routes of accounts (facts section 5): login, card keys, points, invitations, and admins'."""
