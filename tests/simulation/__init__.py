"""
The drain and the dispatcher, unmodified, against models of Redis and MySQL.

A seed decides in which order things happen, who dies when and what is lost on the way;
`make simulate` replays it. From below: `loop` (time and processes), `network` (delays
and faults), `redis_*` and `mysql_*` (the models), `world` (everybody on it),
`scenarios` (what a seed means), `promises` (what must hold), `runner`.
"""
