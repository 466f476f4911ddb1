"""HTTP front: acknowledges from Redis, reads Redis and MySQL; never imports `worker`."""
