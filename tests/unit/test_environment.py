"""The local stack's environment: groups stay whole, secrets are made once and kept private."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops import environment
from shared.errors import SettingsError
from shared.settings import from_env

VALUES = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=30)
NAMES = st.from_regex(r"[A-Z][A-Z_]{0,12}", fullmatch=True)


def test_a_first_start_makes_an_owner_and_secrets_that_pass_as_settings() -> None:
    """With an empty environment everything required is there, and no secret is guessable."""
    saved = environment.complete({}, {})

    settings = from_env(saved)

    assert "admin" == settings.username
    assert "127.0.0.1" == settings.mysql_host
    assert min(len(settings.password), len(settings.mysql_password)) >= 32


def test_settings_that_are_nowhere_are_told_with_where_they_were_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is in another folder than that of `moonwake up` sees it; where the file is, not."""
    for leader in environment.GROUPS:
        monkeypatch.delenv(leader, raising=False)
    with pytest.raises(SettingsError, match=f"REDIS_URL is required.* nor is there {tmp_path}/env"):
        environment.settings(tmp_path)

    environment.save(tmp_path, {"MYSQL_HOST": "127.0.0.1"})
    with pytest.raises(SettingsError, match="REDIS_URL is required") as caught:
        environment.settings(tmp_path)
    assert "nor is there" not in str(caught.value)


def test_two_first_starts_share_no_secret() -> None:
    """Secrets are random, not constants of the program."""
    one, other = environment.complete({}, {}), environment.complete({}, {})

    for name in ("PASSWORD", "MYSQL_PASSWORD", "REDIS_URL"):
        assert one[name] != other[name]


def test_a_later_start_keeps_every_secret() -> None:
    """A new password would end every session and lock the data directory's user out."""
    saved = environment.complete({}, {})

    assert saved == environment.complete({}, saved)


def test_an_inherited_username_is_ignored_without_a_password() -> None:
    """Login shells export USERNAME: it does not become the site's owner by accident."""
    given_by_shell = {"USERNAME": "root", "PATH": "/bin"}
    saved = environment.complete(given_by_shell, {})

    merged = environment.merge(given_by_shell, saved)

    assert "admin" == merged["USERNAME"]
    assert "/bin" == merged["PATH"]


def test_a_username_given_with_its_password_is_the_owner() -> None:
    """Both from the environment, as on a LunaTV site: neither is replaced or saved."""
    given_by_operator = {"USERNAME": "luna", "PASSWORD": "pw"}
    saved = environment.complete(given_by_operator, {})

    merged = environment.merge(given_by_operator, saved)

    assert ("luna", "pw") == (merged["USERNAME"], merged["PASSWORD"])
    assert "PASSWORD" not in saved


def test_one_server_never_gets_another_servers_password() -> None:
    """With MYSQL_HOST given, nothing of the private server's address or login is mixed in."""
    saved = environment.complete({}, {})

    merged = environment.merge({"MYSQL_HOST": "db.example"}, saved)

    assert "db.example" == merged["MYSQL_HOST"]
    assert not {"MYSQL_PORT", "MYSQL_USER", "MYSQL_PASSWORD", "MYSQL_DATABASE"} & set(merged)
    assert saved["REDIS_URL"] == merged["REDIS_URL"]


def test_an_empty_variable_counts_as_not_given() -> None:
    """PASSWORD= in a compose file is no password."""
    saved = environment.complete({"PASSWORD": "", "REDIS_URL": ""}, {})

    merged = environment.merge({"PASSWORD": "", "REDIS_URL": ""}, saved)

    assert saved["PASSWORD"] == merged["PASSWORD"] != ""
    assert saved["REDIS_URL"] == merged["REDIS_URL"] != ""


@given(values=st.dictionaries(NAMES, VALUES, max_size=5))
def test_what_is_saved_is_loaded_again(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, str]
) -> None:
    """Quotes, spaces, # and $ in a value survive the file."""
    run = tmp_path_factory.mktemp("run")

    environment.save(run, values)

    assert values == environment.load(run)


def test_the_saved_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    """Mode 0600, also when an older file was readable by all."""
    (tmp_path / "env").write_text("PASSWORD=old\n")
    (tmp_path / "env").chmod(0o644)

    environment.save(tmp_path, {"PASSWORD": "new"})

    assert 0o600 == (tmp_path / "env").stat().st_mode & 0o777
    assert {"PASSWORD": "new"} == environment.load(tmp_path)


def test_a_folder_without_a_stack_remembers_nothing(tmp_path: Path) -> None:
    """Commands work on the plain environment where no stack was ever started."""
    assert {} == environment.load(tmp_path)
