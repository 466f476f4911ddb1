"""The ASGI entry point: `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import Any, cast

from litestar import Litestar

from api import docs, metrics
from api.asgi import Message, Receive, Scope, Send
from api.errors import handle
from api.openapi import DOCUMENTED
from api.play_records import PATH, SavePlayRecord
from api.site import Site, open_site
from shared.errors import MoonwakeError
from shared.garbage import collect_seldom
from shared.logging import set_up_logging
from shared.settings import Settings, from_env


def create_app() -> App:
    """The front of this process, as its environment sets it. Raises `SettingsError`."""
    settings = from_env()
    set_up_logging(settings)
    app = App(settings)
    collect_seldom()
    return app


class App:
    """Hands `POST /api/playrecords` to its own callable and all else to Litestar."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refusal: MoonwakeError | None = None
        self._save: SavePlayRecord | None = None
        self._record: Callable[[str, str, int, float], None] = lambda *_: None
        #: What runs behind the front, once it has started.
        self.site: Site | None = None
        litestar = Litestar(
            route_handlers=[*DOCUMENTED, *docs.PAGES, metrics.read_metrics],
            lifespan=[self._running],
            exception_handlers={Exception: handle},
            # Its pages load their scripts from elsewhere; ours is in `docs`.
            openapi_config=None,
            logging_config=None,
        )
        # Its own types are narrower than what a server sends.
        self._litestar = cast("Any", litestar)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        else:
            await self._litestar(scope, receive, send)  # refuses: there is no WebSocket here

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s = perf_counter()
        if self._save is not None and scope["method"] == "POST" and scope["path"] == PATH:
            status, route = await self._save.respond(scope, receive, send), PATH
        else:
            status, route = await self._route(scope, receive, send)
        self._record(scope["method"], route, status, perf_counter() - started_s)

    async def _route(self, scope: Scope, receive: Receive, send: Send) -> tuple[int, str]:
        """Let Litestar answer: (status, path template)."""
        status = 0

        async def watch(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._litestar(scope, receive, watch)
        return status, scope.get("path_template", "unmatched")

    @asynccontextmanager
    async def _running(self, app: Litestar) -> AsyncIterator[None]:
        try:
            async with open_site(self._settings) as site:
                app.state.site = self.site = site
                self._record = site.figures.record
                self._save = SavePlayRecord(site)
                yield
        except MoonwakeError as error:
            self._refusal = error
            raise

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A refusal to start is told in its own words, not as a traceback."""

        async def tell(message: Message) -> None:
            if self._refusal is not None and message["type"] == "lifespan.startup.failed":
                message = {**message, "message": str(self._refusal)}
            await send(message)

        try:
            await self._litestar(scope, receive, tell)
        except MoonwakeError:
            if self._refusal is None:
                raise
