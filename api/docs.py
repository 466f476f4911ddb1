"""
The API page at /docs and its document, served from this machine alone.

Swagger UI's files come from an installed package; Litestar's own pages would load
theirs from elsewhere, which fails on a closed network.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import distribution
from pathlib import Path

from litestar import Response, get
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from api.errors import Answer, response_of
from api.openapi import document

DOCUMENT = "/docs/openapi.json"

_KINDS = {".css": b"text/css", ".js": b"text/javascript", ".png": b"image/png"}
#: What the page loads; the package ships more.
_FILES = ("swagger-ui.css", "swagger-ui-bundle.js", "favicon-32x32.png")
# The browser is told so too: whatever the bundle would like to load, it comes from here.
_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    b" img-src 'self' data:; connect-src 'self'",
)
_PAGE = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>moonwake API</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = b"""SwaggerUIBundle({
  url: "/docs/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
});
"""


@get("/docs", status_code=200, include_in_schema=False)
async def read_page() -> Response[bytes]:
    return response_of(Answer(200, _PAGE, b"text/html; charset=utf-8", [_POLICY]))


@get(DOCUMENT, status_code=200, include_in_schema=False)
async def read_document() -> Response[bytes]:
    return response_of(Answer(200, document()))


@get("/docs/{name:str}", status_code=200, include_in_schema=False)
async def read_file(name: FromPath[str]) -> Response[bytes]:
    """One of the files that the page loads."""
    if name == "start.js":
        return response_of(Answer(200, _START, _KINDS[".js"]))
    if name not in _FILES:
        raise NotFoundException
    caching = (b"cache-control", b"max-age=86400")
    kind = _KINDS[Path(name).suffix]
    return response_of(Answer(200, _shipped(name), kind, [caching]))


@cache
def _shipped(name: str) -> bytes:
    # By its files: importing the package would import the framework it is made for.
    shipped = distribution("flask-swagger-ui").locate_file(f"flask_swagger_ui/dist/{name}")
    return Path(str(shipped)).read_bytes()


#: The page, the document and the files.
PAGES = (read_page, read_document, read_file)
