"""Bodies: nothing of them is read before it is known that the caller may send it, nor more than is of use."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from fastapi.params import File
from fastapi.routing import APIRoute
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException

from fusion_diff.counted import sized
from fusion_diff.service import concurrency_limits, keys
from fusion_diff.service.pages import router as pages
from fusion_diff.service.request_bodies import MAX_PLAIN_BYTES, SLOWEST, Route, bounded
from fusion_diff.service.routes import health, inspections, jobs, models, record, references
from fusion_diff.service.scopes import Scope
from fusion_diff.service.security import Needs

FORM = "multipart/form-data; boundary=x"
FILE = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.tif"\r\n\r\n'
ZEROS = "0" * 32


def key_of(client, *scopes):
    with client.app.state.service.database.write() as session:
        return keys.new_key(session, "somebody", scopes)


async def ask(app, method, path, kind, receive, key=None):
    """Make a request whose body comes as `receive` has it; return the status."""
    head = [(b"host", b"127.0.0.1"), (b"content-type", kind.encode())]
    head += [(b"authorization", f"Bearer {key}".encode())] if key else []
    scope = {"type": "http", "http_version": "1.1", "method": method, "path": path, "headers": head, "app": app}
    scope |= {"query_string": b"", "root_path": "", "scheme": "http", "client": ("192.0.2.7", 1)}
    statuses = []

    async def send(message):
        statuses.append(message.get("status"))

    await app(scope, receive, send)
    return statuses[0]


def bodies():
    """All routes that take a body."""
    routes = [
        each for module in (inspections, references, jobs, models, record, health) for each in module.router.routes
    ]
    waiting = list(pages.routes)
    while waiting:
        route = waiting.pop()
        included = getattr(route, "original_router", None)
        waiting += included.routes if included is not None else ()
        routes.append(route)
    return [each for each in routes if isinstance(each, APIRoute) and each.body_field is not None]


def test_every_route_that_takes_a_body_asks_first_who_sends_it():
    found = bodies()
    assert {"/v1/inspections", "/inspect", "/sign-in"} <= {each.path for each in found}
    for route in found:
        assert isinstance(route, Route), route.path
        asks = any(isinstance(each.call, Needs) for each in route.dependant.dependencies)
        assert asks != (route.path == "/sign-in"), route.path


def test_files_that_wait_for_a_decoder_hold_their_slot_and_those_that_wait_for_a_verdict_do_not():
    """Those are in the queue, which has a limit of its own."""
    taking = [each for each in bodies() if any(isinstance(one.field_info, File) for one in each.dependant.body_params)]
    assert {each.path for each in taking if not each.holds} == {"/v1/inspections", "/inspect"}
    assert {"/v1/reference-sets/{set_id}/images", "/references/{set_id}/images"} <= {each.path for each in taking}


@pytest.mark.parametrize("scope", [None, *Scope])
@pytest.mark.parametrize(
    ("method", "path", "kind", "needed"),
    [
        ("POST", "/v1/inspections", FORM, "inspect"),
        ("POST", "/v1/reference-sets", "application/json", "enrol"),
        ("POST", f"/v1/reference-sets/{ZEROS}/images", FORM, "enrol"),
        ("PUT", f"/v1/reference-sets/{ZEROS}/images/{ZEROS}/mark", FORM, "enrol"),
        ("POST", f"/v1/inspections/{ZEROS}/overrule", "application/json", "enrol"),
        ("POST", "/inspect", FORM, "inspect"),
        ("POST", "/references", "application/x-www-form-urlencoded", "enrol"),
    ],
)
def test_who_may_not_send_a_body_is_refused_before_any_of_it_is_read(guarded, scope, method, path, kind, needed):
    received = []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": b"", "more_body": False}

    key = scope and key_of(guarded, scope)
    status = guarded.portal.call(ask, guarded.app, method, path, kind, receive, key)
    if scope in (needed, "admin"):
        assert received
        assert status == 422, "there is nothing in it"
    else:
        assert not received
        assert status == (403 if scope else 401)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/v1/reference-sets", "application/json"),
        ("/v1/reference-sets", FORM),
        ("/v1/inspections", "application/x-www-form-urlencoded"),
        ("/references", FORM),
        ("/sign-in", "application/x-www-form-urlencoded"),
        ("/sign-in", FORM),
    ],
)
@pytest.mark.parametrize("told", [True, False])
def test_a_body_without_files_is_short(client, path, kind, told):
    content = bytes(MAX_PLAIN_BYTES + 1)
    sent = content if told else iter([content[:1], content[1:]])
    answer = client.post(path, content=sent, headers={"content-type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")
    assert sized(MAX_PLAIN_BYTES) in answer.json()["detail"]


def test_a_field_beside_files_is_short(client):
    files, data = [("files", ("a.tif", b"x"))], {"pixel_size_um": "1" * 2**14}
    assert client.post("/v1/inspections", files=files, data=data).status_code == 400


def part(name, content):
    kind = f'name="{name}"; filename="{name}"' if name == "files" else f'name="{name}"'
    return f"--x\r\nContent-Disposition: form-data; {kind}\r\n\r\n{content}\r\n".encode()


@pytest.mark.parametrize("end", [b"--x--\r\n", b"--x--", b"--x--\r\nan epilogue, which RFC 2046 allows"])
@pytest.mark.parametrize("pieces", [1, 7])
def test_a_form_that_was_cut_off_is_refused_and_what_it_lost_is_not_left_out(client, end, pieces):
    whole = part("files", "nothing") + part("alpha", "0.3") + end

    def post(body, **headers):
        sent = iter([body[at::1][:pieces] for at in range(0, len(body), pieces)]) if pieces > 1 else body
        return client.post("/v1/inspections", content=sent, headers={"content-type": FORM} | headers)

    assert post(whole).status_code == 200
    for length in (len(whole) - len(end), whole.index(b"alpha"), whole.index(b"--x", 1), whole.rindex(b"--x--") + 4):
        answer = post(whole[:length])
        assert answer.status_code == 400, length
    assert "--boundary--" in answer.json()["detail"]


async def ended():
    """Do nothing with the end of a body."""


def test_a_body_that_does_not_come_is_waited_for_a_while_only(client):
    async def receive():
        await asyncio.Event().wait()

    with pytest.raises(HTTPException) as told:
        client.portal.call(bounded(receive, 100, ended, patience=0.01))
    assert (told.value.status_code, told.value.headers) == (408, {"Connection": "close"})


def test_patience_wears_out_where_bytes_only_trickle(client):
    async def receive():
        await asyncio.sleep(0.001)
        return {"type": "http.request", "body": b"a", "more_body": True}

    async def read():
        receiving = bounded(receive, 10**9, ended, patience=0.02)
        while True:
            await receiving()

    with pytest.raises(HTTPException) as told:
        client.portal.call(read)
    assert told.value.status_code == 408


@given(st.lists(st.integers(0, 3 * SLOWEST), min_size=1, max_size=20), st.integers(0, 2))
def test_a_body_is_received_whole_or_not_beyond_its_limit(client, sizes, spare):
    """Once it is there its end is told, and what comes then is passed on."""
    ends, sent = [], [{"type": "http.request", "body": bytes(size), "more_body": True} for size in sizes]
    sent[-1]["more_body"] = False
    parts = itertools.chain(sent, [{"type": "http.disconnect"}])

    async def receive():
        return next(parts)

    async def end():
        ends.append(1)

    async def read(limit):
        receiving = bounded(receive, limit, end)
        return [await receiving() for _ in range(len(sent) + 1)]

    limit = sum(sizes) - 1 + spare
    if spare == 0:
        with pytest.raises(HTTPException):
            client.portal.call(read, limit)
        assert not ends
    else:
        assert client.portal.call(read, limit) == [*sent, {"type": "http.disconnect"}]
        assert ends == [1]


def test_a_caller_sends_so_many_files_at_once_that_others_find_room_and_they_may_go_on_once_they_are_there(
    guarded, monkeypatch
):
    monkeypatch.setattr(concurrency_limits, "PATIENCE_SECONDS", 0.05)
    one, another, third, fourth, fifth = (key_of(guarded, "inspect") for _ in range(5))

    async def many():
        rest, begun = asyncio.Event(), asyncio.Semaphore(0)

        def body():
            parts = iter([{"type": "http.request", "body": FILE, "more_body": True}])

            async def receive():
                for part in parts:
                    return part
                begun.release()
                await rest.wait()
                return {"type": "http.request", "body": b"x\r\n--x--\r\n", "more_body": False}

            return receive

        def post(key):
            return ask(guarded.app, "POST", "/v1/inspections", FORM, body(), key)

        async def begin(key, count):
            begun_now = [asyncio.create_task(post(key)) for _ in range(count)]
            for _ in begun_now:
                await begun.acquire()
            return begun_now

        slow, busy = [], []
        for key, most in ((one, 4), (another, 2), (third, 1), (fourth, 1)):
            slow += await begin(key, most)
            busy.append(await post(key))
        busy.append(await post(fifth))
        rest.set()
        return busy, await asyncio.gather(*slow), await post(one)

    assert guarded.portal.call(many) == ([429] * 5, [200] * concurrency_limits.UPLOADS, 200)
