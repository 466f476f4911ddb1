"""What only the site's owner may read."""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import Annotated
from zoneinfo import ZoneInfo

import msgspec
from litestar import Response, get
from litestar.params import QueryParameter

from api import queries
from api.described import Described, Query
from api.errors import NO_STORE, Answer, response_of
from api.members import owner_of
from api.site import AnyRequest, site_of
from shared.errors import InvalidField

PATH = "/api/admin/play-stats/daily"
DAYS_DEFAULT, DAYS_MAX = 30, 366

First = Annotated[str | None, QueryParameter(name="from")]
Last = Annotated[str | None, QueryParameter(name="to")]
_DATE = {"format": "date"}
_WINDOW = (
    Query("from", f"First day, at most {DAYS_MAX} with the last.", rules=_DATE),
    Query("to", "Last day; today by default.", rules=_DATE),
)


@get(PATH, status_code=200)
async def read_daily_stats(
    request: AnyRequest, first: First = None, last: Last = None
) -> Response[bytes]:
    """Plays, watched seconds and users per day; by default of the last 30 days."""
    site = site_of(request)
    await owner_of(request)
    today = datetime.now(ZoneInfo(site.settings.stats_timezone)).date()
    window = window_of(first, last, today)
    days = await queries.patiently(lambda: queries.daily_stats(site.pool, *window))
    return response_of(Answer(200, msgspec.json.encode(days), headers=[NO_STORE]))


def window_of(first: str | None, last: str | None, today: date) -> tuple[date, date]:
    """The days asked for, both included. Raises `InvalidField`."""
    end = _date_of(last, "to", today)
    by_default = date.fromordinal(max(1, end.toordinal() - DAYS_DEFAULT + 1))
    begin = _date_of(first, "from", by_default)
    if begin > end or (end - begin).days >= DAYS_MAX:
        raise InvalidField("Invalid date range", "from", f"1 to {DAYS_MAX} days up to the last one")
    return begin, end


def _date_of(text: str | None, field: str, default: date) -> date:
    if text is None:
        return default
    try:
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
            return date.fromisoformat(text)
    except ValueError:
        pass
    raise InvalidField("Invalid date", field, "a date such as 2026-01-31")


ROUTES = (read_daily_stats,)
DESCRIBED = {
    (PATH, "get"): Described(
        "statistics",
        list[queries.DailyStats],
        errors=(400, 503),
        login=True,
        role="owner",
        queries=_WINDOW,
    ),
}
