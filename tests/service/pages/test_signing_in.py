"""Signing in, and what the pages then offer: what the scopes of a key allow, by requests that carry its token."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest
from browsed import BROWSER, HTMX, Page, id_of, inspected, looked_at
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from starlette.testclient import TestClient

from fusion_diff.service import keys
from fusion_diff.service.app import create_app
from fusion_diff.service.pages.signing import _own
from fusion_diff.service.runtime import Service
from fusion_diff.service.serving import Server
from fusion_diff.service.sessions import COOKIE, LASTS_SECONDS, end, is_ended
from fusion_diff.service.settings import Settings
from fusion_diff.service.tables import EndedSession, now


@pytest.fixture
def sign_in(guarded):
    """Signs in with a new key of some scopes, and gives the token for what is sent."""

    def signed(*scopes: str) -> dict[str, str]:
        guarded.cookies.clear()
        with guarded.app.state.service.database.write() as session:
            key = keys.new_key(session, "+".join(scopes), scopes)
        answer = guarded.post("/sign-in", data={"key": key, "next": "/history"})
        assert (answer.status_code, answer.headers["location"]) == (303, "/history")
        page = guarded.get("/", headers=BROWSER).text
        return {"X-CSRF-Token": re.search(r'"X-CSRF-Token": "([0-9a-f]{64})"', page)[1]}

    yield signed
    guarded.cookies.clear()


def test_whoever_is_not_signed_in_is_asked_to_and_comes_back(guarded):
    for address in ("/", "/history", "/references", "/inspections/" + "0" * 32):
        answer = guarded.get(address, headers=BROWSER)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith("/sign-in?next=%2F")
    part = guarded.get("/history/charts", headers=HTMX | {"HX-Current-URL": "http://127.0.0.1/history?name=a"})
    assert part.headers["HX-Redirect"] == "/sign-in?next=%2Fhistory%3Fname%3Da"
    whole = guarded.get("/history?decision=not+authentic&name=%2F%2Felsewhere", headers=BROWSER)
    form = guarded.get(whole.headers["location"], headers=BROWSER).text
    shown = "/history?decision=not+authentic&amp;name=%2F%2Felsewhere"
    assert f'name="next" value="{shown}"' in form, "filters are there again after signing in"
    assert guarded.get("/history/inspections.csv").status_code == 401
    assert guarded.post("/inspect", files={"file": ("a.tif", b"x")}).status_code == 401
    wrong = guarded.post("/sign-in", data={"key": "fdk_nothing"})
    assert wrong.status_code == 401
    assert "the API key is not valid; ask the administrator for one" in Page(wrong.text).text
    part = guarded.post("/sign-in", data={"key": "<b>"}, headers=HTMX)
    assert looked_at(part).text.startswith("API key")


@pytest.mark.parametrize(
    ("scopes", "offered", "withheld"),
    [
        (["read"], ["/history"], ["/inspect", "/sign-in"]),
        (["inspect"], ["/inspect"], ["/history", "/references"]),
        (["read", "inspect"], ["/inspect", "/history"], []),
    ],
)
def test_pages_offer_what_the_scopes_of_a_key_allow(guarded, sign_in, scopes, offered, withheld):
    sign_in(*scopes)
    page = looked_at(guarded.get("/", headers=BROWSER))
    assert set(offered) <= page.addresses
    assert not set(withheld) & page.addresses
    assert "/sign-out" in page.addresses


def test_a_reader_is_offered_no_teaching_and_refused_it(guarded, sign_in, micrograph):
    token = sign_in("admin")
    address = guarded.post("/references", data={"name": "guarded", "authentic": "fine"}, headers=token | HTMX)
    address = address.headers["HX-Redirect"]
    guarded.post(
        f"{address}/images", files={"file": ("a.tif", micrograph("coarse", 1))}, data={"label": "coarse"}, headers=token
    )
    verdict = f"/inspections/{id_of(inspected(guarded, micrograph('fine', 180), **token))}"
    token = sign_in("read")
    for place in ("/references", address, verdict):
        page = looked_at(guarded.get(place, headers=BROWSER))
        offers = (
            "New reference set",
            "Enrol",
            "Overrule",
            "Add to references",
            "Mark flaw",
            "Remove",
            "Set as default",
        )
        for word in offers:
            assert word not in page.text.split("Models")[0], f"{word} on {place}"
    refused = guarded.post(f"{verdict}/overrule", data={"decision": "authentic", "reason": "no"}, headers=token)
    assert refused.status_code == 403
    assert "lacks the scope enrol" in refused.json()["detail"]
    assert guarded.post(f"{address}/enrol", data={"name": "m"}, headers=token).status_code == 403
    sign_in("enrol", "read")
    page = looked_at(guarded.get(address, headers=BROWSER))
    assert "make it the default model" not in page.text, "that takes the scope admin"


def test_what_changes_something_needs_the_token_of_the_session(guarded, sign_in, micrograph):
    token = sign_in("admin")
    files = {"file": ("a.tif", micrograph("fine", 181))}
    for headers in ({}, {"X-CSRF-Token": "0" * 64}):
        assert guarded.post("/inspect", files=files, headers=headers).status_code == 403
        assert guarded.post("/references", data={"name": "x", "authentic": "y"}, headers=headers).status_code == 403
        assert guarded.post("/sign-out", headers=headers).status_code == 403
    elsewhere = token | {"Origin": "https://elsewhere.example"}
    assert guarded.post("/inspect", files=files, headers=elsewhere).status_code == 403
    assert guarded.post("/inspect", files=files, headers=token).status_code == 200
    signed_out = guarded.post("/sign-out", headers=token | HTMX)
    assert signed_out.headers["HX-Redirect"] == "/sign-in"
    assert signed_out.headers["Clear-Site-Data"] == '"cache"', "which holds pictures for a year"
    assert guarded.get("/", headers=BROWSER).status_code == 303, "signed out"


def test_a_session_that_was_signed_out_allows_nothing_in_any_process_and_others_of_its_key_go_on(guarded, sign_in):
    token = sign_in("read")
    first = guarded.cookies[COOKIE]
    service = guarded.app.state.service
    second = service.sessions.begin(first.partition(".")[0])
    assert guarded.post("/sign-out", headers=token).status_code == 303
    for cookie, status in ((first, 401), (second, 200), (first, 401)):
        guarded.cookies.clear()
        guarded.cookies.set(COOKIE, cookie)
        assert guarded.get("/v1/inspections").status_code == status
    with TestClient(create_app(service.settings), base_url="http://127.0.0.1", cookies={COOKIE: first}) as replica:
        assert replica.get("/v1/inspections").status_code == 401
    assert guarded.post("/sign-out", headers=token).status_code == 303, "and again, where nothing is left to end"


def test_sessions_that_ended_are_forgotten_once_their_cookies_have(guarded, sign_in):
    service = guarded.app.state.service
    for age in (2 * LASTS_SECONDS, 0):
        signed = service.sessions.read(service.sessions.begin("0" * 12, at=time.time() - age), at=0)
        with service.database.write() as session:
            end(session, signed)
            assert is_ended(session, signed)
    with service.database.read() as session:
        assert all(each.ends > now() for each in session.scalars(select(EndedSession)))


@pytest.fixture
def proxied(enrolled_folder, tmp_path):
    """Gives a client whose requests reach the service from a proxy at 10.1.2.3, and a key, where some are trusted."""

    @contextmanager
    def behind(trusted, **settings):
        service = Service.open(Settings(data=tmp_path, model=str(enrolled_folder), trusted_proxies=trusted, **settings))
        with service.database.write() as session:
            key = keys.new_key(session, "line 7", ["read"])
        config = Server(service).config
        config.load()
        url, proxy = "http://lab.example", ("10.1.2.3", 1234)
        with TestClient(config.loaded_app, base_url=url, client=proxy, follow_redirects=False) as client:
            yield client, key

    return behind


@pytest.mark.parametrize(
    ("trusted", "secure"), [("10.1.0.0/16", True), ("10.1.2.3", True), ("*", True), ("::1", False)]
)
def test_behind_a_proxy_that_is_trusted_and_speaks_tls_the_cookie_goes_nowhere_else(proxied, trusted, secure):
    headers = {"X-Forwarded-Proto": "https", "Origin": "https://lab.example", "Sec-Fetch-Site": "same-origin"}
    with proxied(trusted) as (client, key):
        answer = client.post("/sign-in", data={"key": key}, headers=headers)
        assert answer.status_code == 303
        assert ("; Secure" in answer.headers["set-cookie"]) == secure
        elsewhere = client.post("/sign-in", data={"key": key}, headers=headers | {"Host": "10.9.9.9:8000"})
        assert elsewhere.status_code == 403
        assert "a proxy has to pass the Host header on unchanged" in elsewhere.json()["detail"]


@pytest.mark.parametrize(("trusted", "statuses"), [("10.1.2.3", [200, 200, 429, 200]), ("", [200, 200, 429, 429])])
def test_callers_behind_a_proxy_that_is_trusted_are_counted_each_for_itself(proxied, trusted, statuses):
    with proxied(trusted, rate_limit=2) as (client, _):
        from_ = ["192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"]
        assert [client.get("/sign-in", headers={"X-Forwarded-For": each}).status_code for each in from_] == statuses


@given(
    st.text(max_size=30) | st.sampled_from(["//elsewhere.example", "/\\elsewhere.example", "https:/elsewhere", "/a\n"])
)
def test_signing_in_leads_to_a_page_of_the_service_and_nowhere_else(path):
    found = _own(path)
    parts = urlsplit(found)
    assert found.startswith("/")
    assert (parts.scheme, parts.netloc) == ("", "")
    assert found[1:2] not in ("/", "\\")
