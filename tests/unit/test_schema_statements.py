"""Cutting SQL files into statements."""

from __future__ import annotations

import pytest

from schema.files import load
from schema.statements import split


def test_semicolons_end_statements_and_the_last_needs_none() -> None:
    """What a client would send one by one comes out one by one, in order."""
    assert ["SELECT 1", "SELECT 2\nFROM t"] == split("SELECT 1;\n\n SELECT 2\nFROM t\n")


@pytest.mark.parametrize(
    "quoted",
    [
        "'a;b'",
        '"a;b"',
        "`a;b`",
        "'it''s; fine'",
        r"'it\'s; fine'",
        r"'ends in a backslash \\'",
        "'-- no comment; '",
        "'/* no comment; */'",
        "'# no comment; '",
        "`odd``name;`",
        '"say ""so;"""',
    ],
)
def test_what_is_quoted_is_left_alone(quoted: str) -> None:
    """No semicolon, comment sign or escaped quote inside quotes ends anything."""
    assert [f"SELECT {quoted}", "SELECT 2"] == split(f"SELECT {quoted};SELECT 2;")


@pytest.mark.parametrize(
    "comment", ["-- it's; \n", "--\n", "# don't;\n", "/* it's;\n not; */", "/**/", "/* -- */"]
)
def test_comments_end_nothing_and_belong_to_the_statement_they_are_in(comment: str) -> None:
    """A quote or semicolon in a comment means nothing; before a statement it is dropped."""
    inside = f"SELECT 1 {comment} + 1"

    assert [inside, "SELECT 2"] == split(f"{comment}{inside};\n{comment}\nSELECT 2;{comment}")


def test_a_file_of_comments_has_no_statements() -> None:
    """Nothing empty is ever sent to the server, which would call it an error."""
    assert [] == split("-- only words;\n\n/* and more; */ ;\n;")


@pytest.mark.parametrize(
    "code", ["/*!80000 SET a = ';' */", "/*M! SET a = 1; */", "/*+ NO_ICP(t) */ SELECT 1"]
)
def test_a_comment_that_a_server_executes_is_code(code: str) -> None:
    """Statements for one of the two servers are not thrown away with the comments."""
    assert [code, "SELECT 2"] == split(f"{code};SELECT 2")


def test_minus_and_slash_that_begin_no_comment_are_kept() -> None:
    """Arithmetic is not taken for a comment: MySQL wants a blank after --."""
    assert ["SELECT 1--1, 4/2", "SELECT 3"] == split("SELECT 1--1, 4/2; SELECT 3")


@pytest.mark.parametrize("opened", ["'", '"', "`", "/*"])
def test_what_is_opened_and_never_closed_is_an_error_with_its_line(opened: str) -> None:
    """A forgotten quote is named, not sent as one huge statement."""
    with pytest.raises(ValueError, match=r"line 2: .* never closed"):
        split(f"SELECT 1;\nSELECT {opened}abc; SELECT 2;\n")


def test_every_statement_of_the_schema_begins_with_its_verb() -> None:
    """The files of this program are cut where a reader would cut them."""
    verbs = {statement.split()[0] for file in load() for statement in file.statements}

    assert {"ALTER", "CREATE", "INSERT"} == verbs
