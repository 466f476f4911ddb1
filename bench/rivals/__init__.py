"""Other ways to bring the same heartbeats into the same MySQL, measured beside moonwake."""
