"""The ASGI entry point: `uvicorn --factory api.app:create_app`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from litestar import Litestar

from api import play_records
from api.asgi import Message, Receive, Scope, Send
from api.errors import handle
from api.play_records import PATH, SavePlayRecord
from api.site import Site, open_site
from shared.errors import MoonwakeError
from shared.logging import set_up_logging
from shared.settings import Settings, from_env


def create_app() -> App:
    """The front of this process, as its environment sets it. Raises `SettingsError`."""
    settings = from_env()
    set_up_logging(settings)
    return App(settings)


class App:
    """Hands `POST /api/playrecords` to its own callable and all else to Litestar."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refusal: MoonwakeError | None = None
        self._save: SavePlayRecord | None = None
        #: What runs behind the front, once it has started.
        self.site: Site | None = None
        litestar = Litestar(
            route_handlers=[
                play_records.read_play_records,
                play_records.save_play_record,
                play_records.delete_play_records,
            ],
            lifespan=[self._running],
            exception_handlers={Exception: handle},
            openapi_config=None,
            logging_config=None,
        )
        # Its own types are narrower than what a server sends.
        self._litestar = cast("Any", litestar)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif self._save is not None and scope.get("method") == "POST" and scope["path"] == PATH:
            await self._save.respond(scope, receive, send)
        else:
            await self._litestar(scope, receive, send)

    @asynccontextmanager
    async def _running(self, app: Litestar) -> AsyncIterator[None]:
        try:
            async with open_site(self._settings) as site:
                app.state.site = self.site = site
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
