"""What every process needs: nothing in here knows about `api`, `worker` or `ops`."""
