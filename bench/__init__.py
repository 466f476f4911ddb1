"""Measures moonwake against peers and limits, side by side in one run; see README.md."""
