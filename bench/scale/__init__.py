"""How moonwake scales: with workers and shards, with what is stored, over an outage of MySQL."""
