"""A connection that is reset while it is made: what the drivers then say, translated."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from shared.errors import StoreDown, Transient
from shared.mysql import mysql_errors
from shared.redis import redis_errors


async def _write_after_reset() -> None:
    """What redis-py does when the server hangs up right after it was reached."""
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.transport.abort()
        await writer.wait_closed()
        writer.writelines([b"PING", b"\r\n"])


def _run_on_uvloop() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_write_after_reset())


def test_a_reset_connection_to_redis_is_a_store_that_is_down() -> None:
    """uvloop says RuntimeError: a front's flusher and a worker's loops must not die of it."""
    with pytest.raises(StoreDown, match="closed"), redis_errors():
        _run_on_uvloop()


def test_a_reset_connection_to_mysql_is_transient() -> None:
    """The same, and what asyncmy says where it finds no socket any more."""
    with pytest.raises(Transient, match="closed"), mysql_errors():
        _run_on_uvloop()
    with pytest.raises(Transient), mysql_errors():
        raise RuntimeError("Transport does not expose socket instance")


def test_any_other_runtime_error_is_a_fault_of_this_program() -> None:
    """It is not retried."""
    with pytest.raises(RuntimeError, match="ours"), redis_errors():
        raise RuntimeError("ours")
    with pytest.raises(RuntimeError, match="ours"), mysql_errors():
        raise RuntimeError("ours")
