"""The load: 200 users, 50 titles, each user's positions in turn; the same for every contender."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson

from bench.servers import OWNER
from shared.cookies import sign

USERS, TITLES = 200, 50
KEYS = USERS * TITLES
PATH = "/api/playrecords"
SOURCE = "heimuer"
_SIGNED_AT_MS = 1_716_000_000_000


def user_of(number: int) -> str:
    return f"viewer{number % USERS:03d}"


def content_of(number: int) -> str:
    return f"{40_000 + number // USERS % TITLES}"


def cookie_of(number: int) -> str:
    """The signed login cookie of the user of key *number*."""
    return f"user_auth={sign(user_of(number), 'user', OWNER['PASSWORD'], _SIGNED_AT_MS)}"


def record(number: int, index: int, play_time: int, save_time: int) -> dict[str, Any]:
    """What the player of key *number* posts; every text as long as real ones."""
    content = content_of(number)
    picture = f"{int(content) * 2_654_435_761 % 2**64:016x}"
    return {
        "title": f"漫长的季节 {content}",
        "source_name": f"影视 {SOURCE}",
        "cover": f"https://img.example.net/upload/vod/20240517-1/{picture}{picture}.jpg",
        "year": "2023",
        "index": index,
        "total_episodes": 12,
        "play_time": play_time,
        "total_time": 2_712,
        "save_time": save_time,
        "search_title": f"漫长的季节 {content}",
        "remarks": "HD",
    }


def body(number: int, fields: dict[str, Any]) -> bytes:
    """The body of a POST that saves *fields* for key *number*."""
    return orjson.dumps({"key": f"{SOURCE}+{content_of(number)}", "record": fields})


# --- as wrk sends it ----------------------------------------------------------------

_INDEX, _PLAY_TIME = 7, 54_321


def write_script(path: Path, first_index: int) -> Path:
    """A wrk script: every key in turn, another episode and a later position each time round.

    Every event thus counts as one play, so MySQL tells how many have arrived. The
    episodes are *first_index* and the next one in turn.
    """
    order = list(range(KEYS))
    random.Random(KEYS).shuffle(order)  # noqa: S311 - the same order in every run
    heads, tails, cookies, between = [], [], [], ""
    for number in order:
        text = body(number, record(number, _INDEX, _PLAY_TIME, _SIGNED_AT_MS)).decode()
        head, rest = text.split(f'"index":{_INDEX},', 1)
        between, tail = rest.split(str(_PLAY_TIME), 1)
        heads.append(f"[==[{head}]==]")
        tails.append(f"[==[{tail}]==]")
        cookies.append(f"[==[{cookie_of(number)}]==]")
    path.write_text(
        f"""
local heads, tails, cookies = {{{",".join(heads)}}}, {{{",".join(tails)}}}, {{{",".join(cookies)}}}
local at, turn, middle = 0, 0, ""
init = function()
  for i = 1, #heads do
    -- Every body of a key has the same length, so its header need be made only once.
    local whole = wrk.format("POST", "{PATH}",
      {{["Cookie"] = cookies[i], ["Content-Type"] = "application/json"}},
      heads[i] .. '"index":{_INDEX},{between}{_PLAY_TIME}' .. tails[i])
    local from = string.find(whole, "\\r\\n\\r\\n", 1, true)
    heads[i] = string.sub(whole, 1, from + 3) .. heads[i]
  end
end
request = function()
  if at % #heads == 0 then
    middle = '"index":' .. ({first_index} + turn % 2) .. ',{between}' .. (10000 + 5 * turn)
    at, turn = 0, turn + 1
  end
  at = at + 1
  return heads[at] .. middle .. tails[at]
end
""",
        encoding="utf-8",
    )
    return path
