"""When Python looks for cyclic garbage."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Keep what a process has loaded out of the collector's walks, and let it walk seldom.

    To be called once, before the process begins its work. By default a front stood still for
    40 ms every few seconds, nearly all of it for modules that stay anyway, and a worker walked
    through its batches, a hundred thousand objects without a cycle among them, for a fourth of
    its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 10)
