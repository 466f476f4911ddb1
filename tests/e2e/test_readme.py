"""The README is run: its commands, its curl line, its line for MySQL and its XADD examples."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from ops import environment
from ops.processes import wait_until
from tests.documents import README, ROOT, blocks
from tests.stacks import RunningStack, running_stack

#: The stack of these tests is `make run` without its set-up, which runs already.
MAKE = {"make run\n", "make test\n"}
DRAINED_S = 30


@pytest.fixture(name="stack", scope="module")
def _stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    with running_stack(folder) as stack:
        yield stack
    shutil.rmtree(stack.run / "mysql", ignore_errors=True)


def test_make_run_is_what_these_tests_run() -> None:
    """Besides the set-up, `make run` does nothing but `moonwake up`."""
    dry = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "run"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert ["sh ops/setup.sh", "exec .venv/bin/moonwake up"] == dry.stdout.splitlines()


def test_every_shell_block_does_what_the_readme_says(stack: RunningStack) -> None:
    """Typed as it stands, each line works and prints what is printed below it."""
    shell = [block for block in blocks(README) if block.language == "sh"]
    assert MAKE < {block.text for block in shell}
    for block in shell:
        if block.text in MAKE:
            continue
        line = _on(stack, block.text)
        if block.prints is None:
            stack.shell(line)
        else:
            assert block.prints == _prints(stack, line, block.prints)


def test_events_that_another_program_adds_are_read_once_drained(stack: RunningStack) -> None:
    """The redis-cli line and the Python example reach MySQL, and their users read them."""
    url = environment.load(stack.run)["REDIS_URL"]
    (program,) = [block.text for block in blocks(README) if block.language == "python"]
    subprocess.run([sys.executable, "-c", program], env={"REDIS_URL": url}, check=True)
    (line,) = [block.text for block in blocks(README) if "XADD" in block.text]
    assert re.fullmatch(r"\d+-\d+\n", stack.shell(line))

    for user, play_time in (("bob", 60), ("李雷", 75)):
        wait_until(partial(_is_read, stack, user), DRAINED_S)

        assert play_time == _play_time(stack, user)
    dead = stack.shell(_mysql(stack, "SELECT COUNT(*) FROM dead_letters")).split()[-1]
    assert "0" == dead


def test_addresses_in_the_readme_answer(stack: RunningStack) -> None:
    """Each http address outside of the shell blocks is a page of the running site."""
    text = re.sub(r"^```.*?^```$", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    addresses = re.findall(r"http://127\.0\.0\.1:8000[^`\s]*", text)
    assert addresses
    for address in addresses:
        assert stack.shell(_on(stack, f"curl -sf {address}"))


def test_the_printed_lines_are_those_of_the_readme(stack: RunningStack) -> None:
    """`moonwake up` prints ready what the README shows, for its owner."""
    assert '{"success":true}' == stack.shell(stack.line("curl ")).strip()
    line = stack.line("mariadb ")

    assert wait_until(lambda: "admin\tdemo\t1\t42" in stack.shell(line), DRAINED_S)


def _on(stack: RunningStack, line: str) -> str:
    """*line* for the port of *stack*."""
    return line.replace("127.0.0.1:8000", f"127.0.0.1:{stack.environ['PORT']}")


def _prints(stack: RunningStack, line: str, expected: str) -> str:
    """What *line* prints, once it prints what is *expected*, or when that is overdue."""
    printed = ""

    def as_expected() -> bool:
        nonlocal printed
        printed = stack.shell(line).rstrip("\n") + "\n"
        return printed == expected

    wait_until(as_expected, DRAINED_S)
    return printed


def _is_read(stack: RunningStack, user: str) -> bool:
    return _play_time(stack, user) is not None


def _play_time(stack: RunningStack, user: str) -> int | None:
    """What *user* reads of the demo's position; None without a record."""
    curl = "curl -sS http://127.0.0.1:8000/api/playrecords"
    told = stack.shell(_on(stack, f'{curl} -H "$(.venv/bin/moonwake cookie {user})"'))
    record = json.loads(told).get("demo+1")
    return record and int(record["play_time"])


def _mysql(stack: RunningStack, query: str) -> str:
    config: Path = stack.run / "client.cnf"
    return f"mariadb --defaults-file={config} -N -e '{query}'"
