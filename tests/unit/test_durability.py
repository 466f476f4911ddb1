"""How a server's own words are read: what keeps a level, what does not, what nobody knows."""

from __future__ import annotations

import pytest
from redis.exceptions import NoPermissionError, ResponseError

from shared.durability import fsync_promise, replica_promise
from shared.errors import AckUnmet, StoreDown

TOO_OLD = ResponseError("unknown command 'WAITAOF', with args beginning with: '1' '0' '1'")
DENIED = NoPermissionError("this user has no permissions to run the command")
ALWAYS = [
    *(b"appendonly", b"yes", b"appendfsync", b"always"),
    *(b"no-appendfsync-on-rewrite", b"no"),
]
AT_REST = {"enabled": 1, "rewrite_in_progress": 0, "rewrite_scheduled": 0, "base_size": 88}


def persistence(**changed: int) -> bytes:
    """INFO persistence of a server whose file is on and at rest, but for what *changed*."""
    fields = {**AT_REST, **changed}
    lines = ["# Persistence", *(f"aof_{name}:{value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode()


def replication(*replicas: str, role: str = "master") -> bytes:
    """INFO replication with *replicas* as Redis prints them."""
    lines = [f"role:{role}", f"connected_slaves:{len(replicas)}"]
    lines += [f"slave{number}:{replica}" for number, replica in enumerate(replicas)]
    return "\r\n".join(lines).encode()


def test_waitaof_is_used_wherever_the_server_lets_us() -> None:
    """It proves the fsync itself, whatever the settings are and become."""
    assert "WAITAOF" == fsync_promise([0, 0], DENIED, persistence()).by
    for lacking in (TOO_OLD, DENIED):
        assert "appendfsync always" == fsync_promise(lacking, ALWAYS, persistence()).by


def test_a_server_that_shows_too_little_is_taken_at_its_word_and_said_so() -> None:
    """Neither WAITAOF nor CONFIG: the file is minded, the rest is for who runs it."""
    promise = fsync_promise(TOO_OLD, DENIED, persistence())

    assert "appendfsync" in promise.unchecked
    assert not promise.fault([persistence()])
    assert "off" in promise.fault([persistence(enabled=0)])
    assert promise.fault([DENIED])


@pytest.mark.parametrize(
    ("changed", "wary"),
    [
        ({"rewrite_in_progress": 1, "base_size": 0}, False),
        ({"rewrite_scheduled": 1, "base_size": 0}, False),
        ({"rewrite_in_progress": 1}, True),
    ],
)
def test_a_file_in_the_making_keeps_nothing(changed: dict[str, int], *, wary: bool) -> None:
    """Its first version, or the first since it was off: until it is whole a crash loses all."""
    with pytest.raises(AckUnmet, match="being made"):
        fsync_promise(TOO_OLD, ALWAYS, persistence(**changed), wary=wary)


def test_an_ordinary_rewrite_takes_nothing_away() -> None:
    """The file so far and what is appended to it stay valid until the new one is whole."""
    promise = fsync_promise(TOO_OLD, ALWAYS, persistence(rewrite_in_progress=1))

    assert "appendfsync always" == promise.by


def test_any_other_refusal_of_waitaof_is_no_promise() -> None:
    """Such as a replica's: that CONFIG says `always` there means nothing to a master's writes."""
    replica = ResponseError("WAITAOF cannot be used with replica instances.")

    with pytest.raises(AckUnmet, match="replica instances"):
        fsync_promise(replica, ALWAYS, persistence())


def test_a_server_that_tells_nothing_is_down() -> None:
    """Without INFO nobody knows anything."""
    with pytest.raises(StoreDown):
        fsync_promise(TOO_OLD, ALWAYS, DENIED)
    with pytest.raises(StoreDown):
        replica_promise(DENIED)


@pytest.mark.parametrize(
    "replicas",
    [
        (),
        ("ip=10.0.0.2,port=6379,state=wait_bgsave,offset=0,lag=0",),
        ("ip=10.0.0.2,port=6379,state=send_bulk,offset=0,lag=0",),
        ("ip=10.0.0.2,port=6379,state=online,offset=99,lag=9",),
    ],
    ids=["none", "waiting", "copying", "silent"],
)
def test_a_replica_that_is_not_in_step_counts_as_none(replicas: tuple[str, ...]) -> None:
    """It holds nothing yet, or has not been heard of for seconds."""
    with pytest.raises(AckUnmet, match="replica"):
        replica_promise(replication(*replicas))


def test_one_replica_in_step_is_enough() -> None:
    """Another may be away."""
    away = "ip=10.0.0.2,port=6379,state=online,offset=1,lag=600"
    here = "ip=10.0.0.3,port=6379,state=online,offset=99,lag=1"

    assert "WAIT" == replica_promise(replication(away, here)).by


def test_a_replica_is_no_master() -> None:
    """What hangs on a replica of ours says nothing of the master's writes."""
    here = "ip=10.0.0.3,port=6379,state=online,offset=99,lag=1"

    with pytest.raises(AckUnmet, match="replica itself"):
        replica_promise(replication(here, role="slave"))


def test_too_few_confirmations_are_none() -> None:
    """What WAIT and WAITAOF count, and an error of theirs, as they answer in time or not."""
    wait = replica_promise(replication("ip=10.0.0.3,port=6379,state=online,offset=9,lag=0"))
    waitaof = fsync_promise([1, 0], ALWAYS, persistence())

    assert not wait.fault([1])
    assert not waitaof.fault([[1, 0]])
    for fault in (wait.fault([0]), waitaof.fault([[0, 3]]), waitaof.fault([TOO_OLD])):
        assert fault
