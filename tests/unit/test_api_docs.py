"""/docs and its document: complete, from the code's own structs, and of this machine alone."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from api.app import App
from api.errors import ErrorBody
from api.play_records import PATH, SaveRequest
from shared.settings import from_env

SETTINGS = from_env(
    {"MYSQL_HOST": "h", "REDIS_URL": "redis://h", "USERNAME": "admin", "PASSWORD": "secret"}
)
#: Something with a host in it: http://x, //x, wss://x.
FOREIGN = re.compile(r"""(?i)\b[a-z]+://|["'(]//""")


@pytest.fixture(name="client")
async def _client() -> AsyncIterator[httpx.AsyncClient]:
    """The page needs neither Redis nor MySQL: nothing is started."""
    transport = httpx.ASGITransport(app=App(SETTINGS))
    async with httpx.AsyncClient(transport=transport, base_url="http://front") as client:
        yield client


async def document_from(client: httpx.AsyncClient) -> dict[str, Any]:
    document: dict[str, Any] = (await client.get("/docs/openapi.json")).json()
    return document


async def test_the_page_loads_only_files_that_are_served_here(client: httpx.AsyncClient) -> None:
    """Every script, style sheet and picture it names is there."""
    page = await client.get("/docs")
    named = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    answers = [await client.get(name) for name in named]

    assert 4 == len(named)
    assert all(name.startswith("/docs/") for name in named)
    assert {200} == {answer.status_code for answer in answers}
    assert {"text/css", "text/javascript", "image/png"} == {
        answer.headers["content-type"].partition(";")[0] for answer in answers
    }


async def test_no_foreign_address_is_in_page_style_script_or_document(
    client: httpx.AsyncClient,
) -> None:
    """It works on a closed network; the browser is told to load nothing from elsewhere."""
    page = await client.get("/docs")
    for path in ("/docs", "/docs/start.js", "/docs/openapi.json"):
        assert not FOREIGN.search((await client.get(path)).text), path
    # Style sheets may load pictures and other sheets.
    styles = (await client.get("/docs/swagger-ui.css")).text
    assert not [
        target
        for target in re.findall(r"(?:url\(|@import)\s*['\"]?([^'\")]+)", styles)
        if not target.startswith(("data:", "#"))
    ]
    # The badge would send the document's address to somebody.
    assert "validatorUrl: null" in (await client.get("/docs/start.js")).text
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert not FOREIGN.search(policy)


async def test_only_the_files_the_page_needs_are_served(client: httpx.AsyncClient) -> None:
    """Nothing else of the package, and nothing outside it."""
    for name in ("index.css", "oauth2-redirect.html", "..%2f__init__.py", "%2e%2e", "VERSION"):
        assert 404 == (await client.get(f"/docs/{name}")).status_code
    for path in ("/schema", "/schema/openapi.json", "/schema/swagger", "/docs/redoc"):
        assert 404 == (await client.get(path)).status_code


async def test_the_document_s_schemas_are_those_of_the_code_s_structs(
    client: httpx.AsyncClient,
) -> None:
    """The hot POST decodes by itself: what is documented is made from the same structs."""
    document = await document_from(client)
    post = document["paths"][PATH]["post"]
    _, schemas = msgspec.json.schema_components(
        (SaveRequest, ErrorBody), ref_template="#/components/schemas/{name}"
    )
    content = {"schema": {"$ref": "#/components/schemas/SaveRequest"}}

    assert {"application/json": content} == post["requestBody"]["content"]
    assert post["requestBody"]["required"]
    for schema in schemas.values():
        del schema["description"]  # in the page's own words
    shown = {name: document["components"]["schemas"][name] for name in schemas}
    assert {"SaveRequest", "PlayRecord", "ErrorBody"} == set(shown)
    for name in ("SaveRequest", "ErrorBody"):
        assert schemas[name].items() <= shown[name].items()
    # More is taken than what the struct, the fast way, takes.
    record = shown["PlayRecord"]
    assert (True, ["title", "source_name", "index"]) == (
        record["additionalProperties"],
        record["required"],
    )
    assert set(schemas["PlayRecord"]["properties"]) == set(record["properties"])
    no_control = r"^[^\x00-\x1f\x7f-\x9f]*$"
    title = {"type": "string", "minLength": 1, "maxLength": 500, "pattern": no_control}
    assert title == record["properties"]["title"]
    assert ["string", "null"] == [kind["type"] for kind in record["properties"]["year"]["anyOf"]]
    assert "maxLength" not in repr(record["properties"]["year"])
    assert ["number", "null"] == [
        kind["type"] for kind in record["properties"]["play_time"]["anyOf"]
    ]
    assert {"200", "400", "401", "413", "503"} == set(post["responses"])


#: What real front ends call (facts section 5), and our own.
OPERATIONS = {
    *((PATH, method) for method in ("get", "post", "delete")),
    ("/api/login", "post"),
    ("/api/logout", "post"),
    ("/api/register/config", "get"),
    ("/api/register", "post"),
    ("/api/change-password", "post"),
    *(("/api/user/cardkey", method) for method in ("get", "post")),
    ("/api/user/cardkeys", "get"),
    ("/api/cardkeys/my", "get"),
    ("/api/user/welcome-banner", "get"),
    ("/api/points/balance", "get"),
    ("/api/points/history", "get"),
    ("/api/redeem/cardkey", "post"),
    ("/api/invitation/info", "get"),
    ("/api/invitation-config", "get"),
    *(("/api/admin/invitation-config", method) for method in ("get", "put")),
    ("/api/admin/points/adjust", "post"),
    ("/api/admin/points/users", "get"),
    ("/api/admin/points/history", "get"),
    *(("/api/admin/cardkey", method) for method in ("get", "post", "delete")),
    ("/api/admin/cardkey/export", "get"),
    *(("/api/admin/cardkey/system-mode", method) for method in ("get", "post")),
    ("/api/admin/user", "post"),
    *(("/api/admin/config", method) for method in ("get", "put")),
    ("/api/admin/play-stats/daily", "get"),
    ("/api/health", "get"),
    ("/livez", "get"),
    ("/readyz", "get"),
}


async def test_no_source_and_no_name_of_the_code_is_on_the_page(
    client: httpx.AsyncClient,
) -> None:
    """Readers of the page know JSON's names, and none of our papers."""
    shown = repr(await document_from(client))

    assert not re.findall(r"\((?:facts|seed) |\*\w+\*", shown)
    assert "`totalRewards` are points" in shown


async def test_every_login_s_refusals_are_told_in_both_forms(client: httpx.AsyncClient) -> None:
    """No login at all is plain text; who is banned, deleted or may not reads JSON."""
    document = await document_from(client)
    for methods in document["paths"].values():
        for operation in methods.values():
            if "security" in operation:
                refused = operation["responses"]["401"]["content"]
                assert {"text/plain", "application/json"} == set(refused)
    admins = document["paths"]["/api/admin/user"]["post"]["description"]
    assert "For admins and the owner." == admins


async def test_every_operation_is_told_with_a_summary_and_what_it_answers(
    client: httpx.AsyncClient,
) -> None:
    """Nothing hides, and nothing refers to a schema that is not there."""
    document = await document_from(client)
    told = {(path, method) for path, methods in document["paths"].items() for method in methods}
    schemas = document["components"]["schemas"]

    assert OPERATIONS == told
    for path, method in told:
        operation = document["paths"][path][method]
        assert operation["summary"].endswith(".")
        assert "200" in operation["responses"]
    referred = re.findall(r"#/components/schemas/(\w+)", repr(document))
    assert set(referred) == set(schemas)
