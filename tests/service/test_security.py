"""Keys, scopes, sessions, limits and headers: who may do what, and what browsers are told."""

from __future__ import annotations

import http.cookies
import json
import logging
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from fusion_diff.errors import ServiceError
from fusion_diff.service import keys
from fusion_diff.service.app import create_app
from fusion_diff.service.database import Database
from fusion_diff.service.logs import JsonFormatter
from fusion_diff.service.rates import Owners, RateLimit, network
from fusion_diff.service.sessions import COOKIE, LASTS_SECONDS, Sessions
from fusion_diff.service.settings import Settings, read_settings
from fusion_diff.service.tables import ApiKey


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def make_key(guarded):
    def make(*scopes, name="somebody"):
        with guarded.app.state.service.database.write() as session:
            return keys.new_key(session, name, scopes)

    return make


def test_a_key_allows_what_its_scopes_say_and_nothing_else(guarded, make_key, micrograph, caplog):
    files = [("files", ("a.tif", micrograph("fine", 140)))]
    asked = {
        "read": lambda key: guarded.get("/v1/inspections", headers=bearer(key)),
        "inspect": lambda key: guarded.post("/v1/inspections", files=files, headers=bearer(key)),
        "enrol": lambda key: guarded.post(
            "/v1/reference-sets", json={"name": key[4:16], "authentic": "fine"}, headers=bearer(key)
        ),
        "admin": lambda key: guarded.put(
            f"/v1/models/{guarded.get('/v1/models', headers=bearer(admin)).json()['items'][0]['id']}/default",
            headers=bearer(key),
        ),
    }
    admin = make_key("admin")
    with caplog.at_level(logging.INFO, logger="fusion_diff.service"):
        for scope in asked:
            key = make_key(scope)
            for wanted, ask in asked.items():
                status = ask(key).status_code
                assert (status < 300) == (scope in (wanted, "admin")), (scope, wanted, status)
                assert status < 300 or status == 403
        assert guarded.get("/v1/inspections", headers=bearer(admin)).json()["items"][0]["by"] == "somebody"
    text = "\n".join(map(JsonFormatter().format, caplog.records))
    assert key[4:16] in text, "the log knows a key by its id"
    assert key.split("_", 2)[2] not in text
    assert "Bearer" not in text


def test_who_may_teach_may_not_choose_what_judges(guarded, make_key):
    key = make_key("enrol")
    made = guarded.post("/v1/reference-sets", json={"name": "own", "authentic": "fine"}, headers=bearer(key)).json()
    told = {"name": "x", "default": True}
    answer = guarded.post(f"/v1/reference-sets/{made['id']}/enrol", json=told, headers=bearer(key))
    assert answer.status_code == 403
    assert "admin" in answer.json()["detail"]


def test_who_may_teach_or_look_may_ask_how_far_learning_is(guarded, make_key):
    statuses = {
        scope: guarded.get(f"/v1/jobs/{'0' * 32}", headers=bearer(make_key(scope)))
        for scope in ("read", "enrol", "inspect")
    }
    assert [answer.status_code for answer in statuses.values()] == [404, 404, 403]
    assert "lacks the scope read or enrol" in statuses["inspect"].json()["detail"]


@pytest.mark.parametrize("path", ["/v1/inspections", "/v1/models", "/metrics", "/v1/ledger", "/v1/nothing", "/v1"])
def test_without_a_key_nothing_is_told(guarded, path):
    answer = guarded.get(path)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"
    assert guarded.get("/healthz").status_code == guarded.get("/readyz").status_code == 200


def test_a_wrong_or_revoked_key_is_refused(guarded, make_key):
    key = make_key("read")
    assert guarded.get("/v1/inspections", headers=bearer(key)).status_code == 200
    other = key[:-1] + ("A" if key[-1] != "A" else "B")
    for wrong in (other, "fdk_x", "", f"fdk_{'0' * 12}_{'a' * 43}"):
        answer = guarded.get("/v1/inspections", headers=bearer(wrong))
        assert answer.status_code == 401, wrong
    assert guarded.get("/v1/inspections", headers={"Authorization": f"Basic {key}"}).status_code == 401
    with guarded.app.state.service.database.write() as session:
        keys.revoke(session, key[4:16])
    assert guarded.get("/v1/inspections", headers=bearer(key)).status_code == 401


def test_a_key_is_kept_as_a_hash_only(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with database.write() as session:
        key = keys.new_key(session, "line 7", ["read", "inspect", "read"])
        row = session.get_one(ApiKey, key[4:16])
        assert row.scopes == ["inspect", "read"]
    with database.read() as session:
        assert keys.caller_of(session, key).name == "line 7"
        assert keys.caller_of(session, key + "x") is None
    database.close()
    content = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert key[4:16].encode() in content
    assert key.split("_", 2)[2].encode() not in content


@pytest.mark.parametrize(("name", "scopes"), [("", ["read"]), ("a\nb", ["read"]), ("a", []), ("x" * 300, ["read"])])
def test_a_key_without_a_proper_name_or_a_scope_is_not_made(tmp_path, name, scopes):
    database = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with pytest.raises(ServiceError), database.write() as session:
        keys.new_key(session, name, scopes)
    database.close()


def test_a_browser_needs_the_token_of_its_session_to_change_anything(guarded, make_key, request):
    key = make_key("read", "enrol")
    sessions = guarded.app.state.service.sessions
    cookie = sessions.begin(key[4:16])
    guarded.cookies.set(COOKIE, cookie)
    request.addfinalizer(guarded.cookies.clear)
    assert guarded.get("/v1/inspections").status_code == 200
    body = {"name": "by page", "authentic": "fine"}
    for token in ("", "0" * 64, sessions.csrf_token("another"), "é"):
        refused = guarded.post("/v1/reference-sets", json=body, headers={"X-CSRF-Token": token.encode()})
        assert refused.status_code == 403
    token = {"X-CSRF-Token": sessions.csrf_token(cookie)}
    assert guarded.post("/v1/reference-sets", json=body, headers=token).status_code == 201
    with guarded.app.state.service.database.write() as session:
        keys.revoke(session, key[4:16])
    assert guarded.get("/v1/inspections").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "elsewhere.example"},
        {"Host": "["},
    ],
)
def test_pages_of_other_sites_cannot_have_a_browser_change_anything(client, headers):
    body = {"name": "forged", "authentic": "fine"}
    answer = client.post("/v1/reference-sets", json=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    own = {"Origin": "http://127.0.0.1", "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/reference-sets", json=body | {"name": str(headers)}, headers=own).status_code == 201


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/v1/models", "/sign-in", "/static/nothing.css"])
@pytest.mark.parametrize("name", [COOKIE, "other"])
def test_no_long_cookie_is_unquoted(guarded, monkeypatch, path, name):
    parsed, unquote = [], http.cookies._unquote  # takes seconds for what follows in Python 3.11.9 and before
    monkeypatch.setattr(http.cookies, "_unquote", lambda text: parsed.append(text) or unquote(text))
    usual = guarded.get(path).status_code
    hostile = name + '="' + "\\" * 60_000 + '"'
    assert guarded.get(path, headers={"Cookie": hostile}).status_code == usual
    assert guarded.get(path, headers={"Cookie": f"a=1; {hostile}; b=2"}).status_code == usual
    assert max(map(len, parsed), default=0) < 400


def test_a_session_is_found_among_other_cookies(guarded, make_key):
    cookie = guarded.app.state.service.sessions.begin(make_key("read")[4:16])
    for header, status in {
        f"{COOKIE}={cookie}": 200,
        f'a="x;y"; {COOKIE}={cookie} ;b': 200,
        f";{COOKIE}={cookie};": 200,
        f"a={COOKIE}={cookie}": 401,
        f"a{COOKIE}={cookie}": 401,
        f"{COOKIE}={cookie}{'0' * 300}": 401,
        f"{COOKIE}={cookie} x": 401,
        f"{COOKIE}=": 401,
    }.items():
        assert guarded.get("/v1/models", headers={"Cookie": header}).status_code == status, header
    split = [("Cookie", "a=1"), ("Cookie", f"{COOKIE}={cookie}")]
    assert guarded.get("/v1/models", headers=split).status_code == 200, "in a header of its own"


@pytest.fixture
def clock(monkeypatch):
    """The clock of the limits, which stands still unless a test sets it."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr("fusion_diff.service.rates.time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_who_asks_too_often_has_to_wait(serve, clock):
    with serve(rate_limit=3) as client:
        assert [client.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert int(client.get("/v1/models").headers["retry-after"]) == 20
        assert client.get("/healthz").status_code == 200
        clock.now += 20
        assert [client.get("/v1/models").status_code for _ in range(2)] == [200, 429]


def test_readiness_is_limited_for_each_address_by_itself(serve, clock):
    with serve(rate_limit=3) as client:
        assert [client.get("/v1/models").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [client.get("/readyz").status_code for _ in range(4)] == [200, 200, 200, 429]
        assert [client.get("/healthz").status_code for _ in range(4)] == [200] * 4


@pytest.fixture
def counted(tmp_path, enrolled_folder, monkeypatch, clock):
    """A service that allows three requests a minute, a way to ask it, and the look-ups of keys that it made."""
    settings = Settings(data=tmp_path / "data", model=str(enrolled_folder), rate_limit=3)
    looked_up, caller_of, caller_by_id = [], keys.caller_of, keys.caller_by_id
    monkeypatch.setattr(keys, "caller_of", lambda session, key: looked_up.append(key) or caller_of(session, key))
    monkeypatch.setattr(keys, "caller_by_id", lambda session, id_: looked_up.append(id_) or caller_by_id(session, id_))
    with TestClient(create_app(settings), base_url="http://127.0.0.1") as client:

        def ask(key, times=1):
            return [client.get("/v1/models", headers=bearer(key)).status_code for _ in range(times)]

        yield client, ask, looked_up


def make(client, *names):
    with client.app.state.service.database.write() as session:
        return [keys.new_key(session, name, ["read"]) for name in names]


def test_whoever_has_no_valid_key_does_not_make_the_database_work(counted):
    client, ask, looked_up = counted
    wrong = [f"fdk_{'0' * 12}_{'a' * 42}{last}" for last in "abcdef"]
    assert [ask(key)[0] for key in wrong] == [401, 401, 401, 429, 429, 429]
    assert looked_up == wrong[:3]
    assert client.get("/v1/models").status_code == 429, "without a key too"


def test_valid_keys_have_limits_of_their_own_at_one_address(counted):
    client, ask, looked_up = counted
    made = make(client, *map(str, range(5)))
    for key in made:
        assert ask(key, 4) == [200, 200, 200, 429]
    assert len(looked_up) == 15, "what is refused is not looked up"
    client.cookies.set(COOKIE, client.app.state.service.sessions.begin(made[0][4:16]))
    assert client.get("/v1/models").status_code == 429, "a session is counted with the key that signed in"
    client.cookies.clear()
    assert ask("x", 4) == [401, 401, 401, 429], "and at no cost to the address"


def test_a_key_that_was_used_before_is_let_in_whatever_its_neighbours_do(counted):
    client, ask, _ = counted
    (key,) = make(client, "line 7")
    assert ask(key) == [200]
    assert ask("x", 4) == [401, 401, 401, 429]
    assert ask(f" {key} ", 3) == [200, 200, 429], "however it is spaced"


def test_a_revoked_key_is_counted_at_its_address(counted):
    client, ask, looked_up = counted
    (key,) = make(client, "line 7")
    assert ask(key) == [200]
    with client.app.state.service.database.write() as session:
        keys.revoke(session, key[4:16])
    assert ask(key, 5) == [401, 401, 401, 401, 429]
    assert len(looked_up) == 5
    assert ask("x") == [429]


def test_a_key_not_seen_yet_is_let_in_whatever_its_neighbours_do(counted):
    client, ask, looked_up = counted
    key, another = make(client, "line 7", "line 8")
    cookie = client.app.state.service.sessions.begin(another[4:16])
    assert ask("x", 4) == [401, 401, 401, 429]
    assert ask(key, 4) == [200, 200, 200, 429]
    client.cookies.set(COOKIE, cookie)
    assert client.get("/v1/models").status_code == 200, "nor is a session locked out"
    client.cookies.set(COOKIE, cookie[:-1] + ("0" if cookie[-1] != "0" else "1"))
    assert client.get("/v1/models").status_code == 429, "a forged one is not looked up"
    assert looked_up == ["x"] * 3 + [key] * 3 + [another[4:16]]


def test_who_knows_the_id_of_a_key_guesses_as_seldom_and_locks_out_that_key_alone(counted):
    client, ask, looked_up = counted
    key, another = make(client, "line 7", "line 8")
    guesses = [f"{key[:17]}{'a' * 42}{last}" for last in "abcdefgh"]
    assert [ask(guess)[0] for guess in guesses] == [401] * 6 + [429] * 2
    assert looked_up == guesses[:6], "three for the address, three for the key"
    assert ask(key) == [429]
    assert ask(another) == [200]
    elsewhere = TestClient(client.app, base_url="http://127.0.0.1", client=("192.0.2.7", 1))
    for wrong in ("x", "x", "x"):
        assert elsewhere.get("/v1/models", headers=bearer(wrong)).status_code == 401
    assert elsewhere.get("/v1/models", headers=bearer(key)).status_code == 200, "from another address"


def test_made_up_ids_are_not_looked_up_and_a_key_made_since_is_known_soon(counted, clock, monkeypatch):
    client, ask, looked_up = counted
    reads, valid_ids = [], keys.valid_ids
    monkeypatch.setattr(keys, "valid_ids", lambda session: reads.append(clock.now) or valid_ids(session))
    made_up = [f"fdk_{number:012x}_{'a' * 43}" for number in range(20)]
    assert [ask(key)[0] for key in made_up] == [401] * 3 + [429] * 17
    assert (looked_up, reads) == (made_up[:3], [1000.0]), "what exists is read once, not for each"
    (key,) = make(client, "line 7")
    assert ask(key) == [429]
    clock.now += 10
    assert ask(key) == [200]
    assert reads == [1000.0, 1010.0]


def test_while_the_database_fails_keys_not_seen_yet_are_refused_like_others_at_their_address(counted, monkeypatch):
    client, ask, _ = counted
    (key,) = make(client, "line 7")

    def fail(session):
        raise OperationalError("SELECT", {}, Exception("gone"))

    assert ask("x", 4) == [401, 401, 401, 429]
    monkeypatch.setattr(keys, "valid_ids", fail)
    assert ask(key) == [429]


def test_owners_of_credentials_are_remembered_in_limited_number(monkeypatch):
    monkeypatch.setattr("fusion_diff.service.rates._CALLERS", 2)
    owners = Owners()
    owners.remember(b"a", "A")
    owners.remember(b"b", "B")
    assert owners.get(b"a") == "A"
    owners.remember(b"c", "C")
    assert [owners.get(each) for each in (b"a", b"b", b"c")] == ["A", None, "C"]
    owners.forget(b"a")
    assert owners.get(b"a") is None


@pytest.mark.parametrize(
    ("address", "counted_as"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("2001:0DB8:1:2::1", "2001:db8:1:2::/64"),
        ("fe80::1%" + "x" * 60_000, "fe80::/64"),
        ("testclient", "unknown"),
        ("", "unknown"),
        ("192.0.2.7" + " " * 200, "unknown"),
        ("a" * 60_000, "unknown"),
    ],
)
def test_an_address_is_counted_with_what_one_host_may_use(address, counted_as):
    assert network(address) == counted_as


@given(st.lists(st.floats(0, 100), max_size=60), st.integers(1, 100))
def test_a_caller_never_gets_more_than_a_full_bucket_and_what_flows_into_it(steps, per_minute):
    limit, at, allowed = RateLimit(per_minute), 0.0, 0
    for step in steps:
        at += step
        wait = limit.wait("a", at)
        allowed += wait == 0
        assert 0 <= wait <= 60 / per_minute
        assert allowed <= per_minute + at * per_minute / 60 + 1e-6
        if wait > 0:
            at += wait * 1.001
            allowed += 1
            assert limit.wait("a", at) == 0, "after the wait that was told there is a token"
        assert limit.wait(f"other {at}", at) == 0


def test_a_session_ends_and_cannot_be_forged():
    sessions, others = Sessions(b"a" * 32), Sessions(b"b" * 32)
    cookie = sessions.begin("0123", at=1000)
    assert sessions.read(cookie, at=1000 + LASTS_SECONDS - 1).key_id == "0123"
    assert sessions.read(cookie, at=1000 + LASTS_SECONDS) is None
    assert others.read(cookie, at=1000) is None
    assert sessions.read(cookie.replace("0123", "4567"), at=1000) is None
    for forged in ("", ".", "..", "a.b.c", "é.1.2", "0123.9999999999."):
        assert sessions.read(forged, at=1000) is None
    assert sessions.is_csrf_token(sessions.csrf_token(cookie), cookie)
    assert not sessions.is_csrf_token(sessions.csrf_token(cookie), sessions.begin("0123", at=1001))


def test_every_answer_keeps_browsers_strict(client):
    for path in ("/v1/models", "/nothing", "/healthz", "/openapi.json"):
        headers = client.get(path).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert len(headers["x-request-id"]) == 32
    assert client.get("/healthz", headers={"X-Request-Id": "line-7.42"}).headers["x-request-id"] == "line-7.42"
    assert client.get("/healthz", headers={"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"


def test_a_fault_is_a_problem_that_tells_nothing_and_is_in_the_log_under_its_id(
    client, micrograph, monkeypatch, caplog
):
    monkeypatch.setattr(client.app.state.service.learning, "_turn", None)  # breaks what nobody expects to break
    made = client.post("/v1/reference-sets", json={"name": "fault", "authentic": "fine"}).json()["id"]
    files = {"files": ("a.tif", micrograph("fine", 141))}
    client.post(f"/v1/reference-sets/{made}/images", files=files, data={"label": "fine"})
    answer = client.post(f"/v1/reference-sets/{made}/enrol", json={"name": "x"})
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "acquire" not in answer.text
    assert answer.headers["content-security-policy"]
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records]
    told = next(line for line in lines if line["message"] == "fault")
    assert told["request_id"] == answer.json()["request_id"]
    assert "acquire" in told["trace"]


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.7", "lab.example", "::"])
def test_without_keys_it_listens_on_loopback_only(host):
    with pytest.raises(ServiceError, match="service-keys new"):
        read_settings(host=host, insecure=True)
    assert read_settings(host=host).host == host


def test_settings_come_from_the_environment_and_never_show_a_password(monkeypatch):
    monkeypatch.setenv("FUSION_DIFF_QUEUE_LENGTH", "7")
    monkeypatch.setenv("FUSION_DIFF_DATABASE_URL", "postgresql://lab:hunter2@db/records")
    settings = read_settings(port=9000)
    assert (settings.queue_length, settings.port, settings.host) == (7, 9000, "127.0.0.1")
    assert "hunter2" not in repr(settings)
    assert settings.database.endswith("@db/records")
    assert Settings(data="x").store.endswith("x/blobs")
    monkeypatch.setenv("FUSION_DIFF_QUEUE_LENGTH", "0")
    with pytest.raises(ServiceError, match=r"queue_length \(FUSION_DIFF_QUEUE_LENGTH\): Input should be"):
        read_settings()
