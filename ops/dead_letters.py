"""`moonwake dead-letters`: look at what could not be applied; replay it, or give it up."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import track

from ops import letter_view, stores
from shared.errors import InvalidField
from worker import kept_letters
from worker.deps import Deps
from worker.kept_letters import DEAD, DISCARDED, REPLAYED, Filter, LetterKey, letter_key
from worker.replay import replay
from worker.sinks.plays import PlaysSink

dead_letters = typer.Typer(
    no_args_is_help=True, help="Entries that could not be applied: look, replay, discard."
)


def _key(text: str) -> LetterKey:
    try:
        return letter_key(text)
    except ValueError:
        raise typer.BadParameter(f"{text} is no letter, as plays/3/1/1700000000000-0 is") from None


_Keys = Annotated[
    list[LetterKey] | None,
    typer.Argument(parser=_key, metavar="LETTER", help="As `list` names them."),
]
_All = Annotated[bool, typer.Option("--all", help="All dead letters, or those of the options.")]
_Shard = Annotated[int | None, typer.Option(help="Only of this shard.")]
_Reason = Annotated[str | None, typer.Option(help="Only for this reason.")]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


# --- looking ------------------------------------------------------------------


@dead_letters.command("list")
def list_letters(
    state: Annotated[
        str, typer.Option(help=f"{DEAD}, {REPLAYED}, {DISCARDED} or all.", metavar="STATE")
    ] = DEAD,
    shard: _Shard = None,
    reason: _Reason = None,
    user: Annotated[str | None, typer.Option(help="Only of this user.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    as_json: _Json = False,
) -> None:
    """List dead letters, the newest first. Exit code 2: MySQL cannot be used."""
    if state not in {DEAD, REPLAYED, DISCARDED, "all"}:
        raise typer.BadParameter(f"{state} is none of {DEAD}, {REPLAYED}, {DISCARDED}, all")
    which = Filter(None if state == "all" else state, None, shard, reason, user)
    letters, count = stores.run(
        lambda deps: kept_letters.newest(deps.pool, which, limit), applies=False
    )
    if as_json:
        shown = [letter_view.as_object(letter) for letter in letters]
        _print_json({"count": count, "letters": shown})
        return
    if letters:
        Console().print(letter_view.table(letters))
    typer.echo(f"{len(letters)} of {count} letters" if letters else "no such letters")


@dead_letters.command()
def show(
    letter: Annotated[
        LetterKey, typer.Argument(parser=_key, metavar="LETTER", help="As `list` names it.")
    ],
    body: Annotated[
        bool, typer.Option("--body", help="Print the field d alone, to be repaired in a file.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Show one letter whole. Exit codes: 1 there is none, 2 MySQL cannot be used."""
    found = stores.run(lambda deps: kept_letters.find(deps.pool, letter), applies=False)
    if found is None:
        typer.echo(f"moonwake: there is no letter {letter}", err=True)
        raise typer.Exit(1)
    if body:
        try:
            sys.stdout.buffer.write(letter_view.raw_body(found))
        except InvalidField as error:
            typer.echo(f"moonwake: {error}", err=True)
            raise typer.Exit(1) from error
    elif as_json:
        _print_json(letter_view.as_object(found))
    else:
        typer.echo(letter_view.details(found))


# --- resolving ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one letter."""

    letter: str
    done: bool
    told: str


@dead_letters.command("replay")
def replay_letters(
    letters: _Keys = None,
    every: _All = False,
    shard: _Shard = None,
    reason: _Reason = None,
    body: Annotated[
        typer.FileBinaryRead | None,
        typer.Option(
            metavar="FILE", help="Apply this repaired body (the event's JSON) instead; - is stdin."
        ),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Apply letters after all, each once, at the time of its entry.

    Exit codes: 0 all applied, 1 some were not, 2 a setting is wrong or a
    store cannot be used: then type it again, nothing is applied twice.
    """
    if body is not None and (every or len(letters or ()) != 1):
        raise typer.BadParameter("a body is for one letter", param_hint="--body")
    repaired = body.read() if body is not None else None

    async def one(deps: Deps, key: LetterKey) -> Result:
        answer = await replay(deps, {"plays": PlaysSink(deps.settings)}, key, repaired)
        told = f"{answer.verdict.value}: {answer.why}" if answer.why else answer.verdict.value
        return Result(str(key), answer.is_done, told)

    _resolve(_choice(letters, every, shard, reason), one, applies=True, as_json=as_json)


@dead_letters.command()
def discard(
    letters: _Keys = None,
    every: _All = False,
    shard: _Shard = None,
    reason: _Reason = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask, with --all.")] = False,
    as_json: _Json = False,
) -> None:
    """Give letters up for good; they are kept, and stay dead in the books.

    Exit codes: 0 all discarded, 1 some were not, 2 a setting is wrong or
    MySQL cannot be used.
    """
    choice = _choice(letters, every, shard, reason)
    if every and not yes:
        typer.confirm("They can never be replayed afterwards. Discard them all?", abort=True)

    async def one(deps: Deps, key: LetterKey) -> Result:
        done = await kept_letters.discard(deps.pool, key)
        return Result(str(key), done, "discarded" if done else "not there, or resolved before")

    _resolve(choice, one, applies=False, as_json=as_json)


def _choice(
    letters: list[LetterKey] | None, every: bool, shard: int | None, reason: str | None
) -> list[LetterKey] | Filter:
    """The letters named, or how to find them."""
    if every == bool(letters):
        raise typer.BadParameter("name letters, or give --all")
    if letters and (shard is not None or reason is not None):
        raise typer.BadParameter("--shard and --reason go with --all")
    return letters or Filter(DEAD, None, shard, reason)


def _resolve(
    choice: list[LetterKey] | Filter,
    one: Callable[[Deps, LetterKey], Awaitable[Result]],
    *,
    applies: bool,
    as_json: bool,
) -> None:
    """Do *one* for each letter of *choice* in the order of the entries, and tell."""

    async def work(deps: Deps) -> list[Result]:
        keys = choice
        if isinstance(keys, Filter):
            keys = await kept_letters.keys(deps.pool, keys)
        quiet = as_json or len(keys) < 2
        bar = track(keys, "letters", console=Console(stderr=True), disable=quiet)
        return [await one(deps, key) for key in bar]

    results = stores.run(work, applies=applies)
    undone = [result for result in results if not result.done]
    if as_json:
        _print_json({"done": len(results) - len(undone), "letters": results})
    else:
        for result in results if len(results) < 20 else undone:
            typer.echo(f"{result.letter}: {letter_view.printable(result.told)}")
        typer.echo(f"{len(results) - len(undone)} of {len(results)} done")
    if undone:
        raise typer.Exit(1)


def _print_json(value: Any) -> None:
    options = orjson.OPT_INDENT_2 | orjson.OPT_NAIVE_UTC | orjson.OPT_UTC_Z
    typer.echo(orjson.dumps(value, option=options))
