"""What the pages show and to whom: escaped, allowed by the policy, and only what a key's scopes let one do."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from fusion_diff.service import keys
from fusion_diff.service.app import create_app
from fusion_diff.service.pages.files import _FILES
from fusion_diff.service.pages.signing import _own
from fusion_diff.service.settings import Settings

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
HTMX = {"HX-Request": "true"}
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>{{7*7}}\u202e.tif'
VOID = {"meta", "link", "input", "img", "br", "hr", "wbr"}


class Page(HTMLParser):
    """What is in a page, and whether a strict policy and a screen reader have something against it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.fields: list[dict[str, str | None]] = []
        self.addresses: set[str] = set()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag in self.open]
        self.wrong += [f"id {each} twice" for each in set(self.ids) if self.ids.count(each) > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag not in VOID and self.get_starttag_text()[-2:] != "/>":
            self.open.append(tag)
        if tag == "style" or (tag == "script" and not given.get("src")):
            self.wrong.append(f"<{tag}> in the page")
        for name, value in attrs:
            if name == "style" or name.startswith(("on", "hx-on")):
                self.wrong.append(f"{name} on <{tag}>")
            if name in ("src", "href", "action") or name in ("hx-get", "hx-post", "hx-put", "hx-delete"):
                self.addresses.add(value or "")
                if not (value or "").startswith(("/", "#")) or (value or "").startswith("//"):
                    self.wrong.append(f"{name} leads to {value}")
        if "id" in given:
            self.ids.append(given["id"] or "")
        if tag == "label" and given.get("for"):
            self.labelled.add(given["for"] or "")
        if tag in ("input", "select", "textarea") and given.get("type") != "hidden" and "label" not in self.open:
            self.fields.append(given)
        if tag == "img" and "alt" not in given:
            self.wrong.append("an image without words")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID or not self.open or self.open[-1] != tag:
            self.wrong.append(f"</{tag}> where {self.open[-1:]} is open")
        else:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    @property
    def unlabelled(self) -> list[dict[str, str | None]]:
        return [each for each in self.fields if each.get("id") not in self.labelled and not each.get("aria-label")]


def looked_at(answer) -> Page:
    """Return a page or a part of one, with nothing wrong in it."""
    assert answer.status_code == 200, answer.text
    page = Page(answer.text)
    assert page.wrong == []
    assert page.unlabelled == []
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
    return page


def inspected(client, content, name="a.tif", **headers):
    """Inspect a micrograph through the page, and return its row."""
    answer = client.post("/inspect", files={"file": (name, content)}, data={"alpha": "0.3"}, headers=headers)
    return looked_at(answer)


def id_of(page: Page) -> str:
    return next(each for each in page.addresses if each.startswith("/inspections/")).rpartition("/")[2]


def new_set(client, micrograph, name, *, shots=1) -> str:
    """Begin a set through the pages, with references of two classes, and return its id."""
    made = client.post("/references", data={"name": name, "authentic": "fine"}, headers=HTMX)
    address = made.headers["HX-Redirect"]
    for label in ("fine", "coarse"):
        for seed in range(shots):
            file = {"file": (f"{label} {seed}.tif", micrograph(label, seed))}
            added = client.post(f"{address}/images", files=file, data={"label": label})
            assert "added as" in looked_at(added).text
    return address


def to_mark(client, address) -> str:
    """Return where the flaw of a set's first reference of another class is marked."""
    return re.search(rf'href="({address}/images/[0-9a-f]{{32}})" aria-label="Mark flaw: ', client.get(address).text)[1]


@pytest.fixture(scope="module")
def story(client, micrograph):
    """A set, two inspections of which one is overruled, and every page there is about them."""
    address = new_set(client, micrograph, "story")
    fine, coarse = (id_of(inspected(client, micrograph(kind, 150))) for kind in ("fine", "coarse"))
    client.post(f"/inspections/{coarse}/overrule", data={"decision": "authentic", "reason": "new <b>lot</b>"})
    image = to_mark(client, address)
    pages = ["/", "/references", address, image, f"/inspections/{fine}", f"/inspections/{coarse}", "/history"]
    return pages


def test_every_page_keeps_to_the_policy_and_names_its_fields(client, story):
    for address in story:
        page = looked_at(client.get(address, headers=BROWSER))
        assert "#main" in page.addresses, "a way past the navigation"
        for each in page.addresses:
            if each.startswith("/static/"):
                assert client.get(each).status_code == 200, each
    for address in [f"{story[2]}/images", "/history/charts"]:
        looked_at(client.get(address, headers=HTMX))


def test_pages_lead_only_where_something_is(client, story):
    for address in story:
        for each in looked_at(client.get(address, headers=BROWSER)).addresses:
            target = urlsplit(each).path or address
            allowed = client.options(target).status_code
            assert allowed == 405 or client.get(target).status_code == 200, f"{address} leads to {each}"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=60) | st.just(HOSTILE))
def test_a_hostile_name_is_text_wherever_it_is_shown(client, name):
    made = client.post("/references", data={"name": name, "authentic": f"{name}!"}, headers=HTMX)
    if made.status_code == 422:
        return  # such a name is not taken
    if made.status_code == 409:
        return
    address = made.headers["HX-Redirect"]
    for page in (looked_at(client.get(address, headers=BROWSER)), looked_at(client.get("/references"))):
        shown = " ".join(name.encode("utf-8", "backslashreplace").decode().split())
        assert shown in page.text
    client.delete(address)


def test_a_hostile_file_name_reason_and_class_are_text_on_the_verdict_and_in_the_history(client, micrograph):
    row = inspected(client, micrograph("fine", 160), HOSTILE)
    assert "<script>alert(1)</script>" in row.text
    address = f"/inspections/{id_of(row)}"
    told = client.post(f"{address}/overrule", data={"decision": "inconclusive", "reason": HOSTILE[:60]})
    assert "<script>" in looked_at(told).text
    for place in (address, "/history", "/", "/history/charts"):
        page = looked_at(client.get(place))
        assert "<script>alert(1)</script>" in page.text
        assert "{{7*7}}" in page.text
        assert "\u202e" not in page.text
    failed = looked_at(client.post("/inspect", files={"file": (HOSTILE, b"nothing")}))
    assert "not inspected" in failed.text


def test_what_cannot_be_inspected_is_told_in_words_in_its_row(client, micrograph):
    row = looked_at(client.post("/inspect", files={"file": ("empty.tif", b"")}))
    assert "empty.tif: the file is empty; copy or export it again from the instrument" in row.text
    refused = client.post("/inspect", files={"file": ("a.tif", micrograph("fine", 161))}, data={"alpha": "2"})
    assert refused.headers["content-type"] == "application/problem+json"


def test_a_mark_is_put_on_a_reference_changed_and_taken_off(client, micrograph):
    import io

    import numpy as np
    from PIL import Image

    address = new_set(client, micrograph, "marks")
    image = to_mark(client, address)
    buffer = io.BytesIO()
    Image.fromarray(np.eye(64, dtype=np.uint8) * 255).save(buffer, "PNG")
    saved = client.post(f"{image}/mark", files={"mark": ("mark.png", buffer.getvalue())}, headers=HTMX)
    assert saved.headers["HX-Redirect"] == address
    assert "flaw marked" in looked_at(client.get(address)).text
    assert "mark.png" in client.get(image).text, "the brush begins with the mark that is there"
    wrong = client.post(f"{image}/mark", files={"mark": ("mark.png", buffer.getvalue()[:50])}, headers=HTMX)
    assert wrong.status_code == 422
    assert client.delete(f"{image}/mark", headers=HTMX).status_code == 204
    assert "flaw marked" not in looked_at(client.get(address)).text
    left = looked_at(client.delete(image))
    assert "coarse 0.tif" not in left.text
    assert client.delete(address, headers=HTMX).headers["HX-Redirect"] == "/references"
    assert client.get(address, headers=BROWSER).status_code == 404


def test_a_set_is_audited_and_enrolled_and_its_model_judges(client, micrograph):
    address = new_set(client, micrograph, "enrolled", shots=2)
    audit = looked_at(client.get(f"{address}/audit"))
    assert "Nothing suspicious" in audit.text or "Look into" in audit.text or "Note" in audit.text
    made = looked_at(client.post(f"{address}/enrol", data={"name": "grain <i>", "default": "true"}))
    assert "Enrolled: grain <i>" in made.text
    assert "AUROC, cross-fitted" in made.text
    assert "fine 2" in made.text
    home = client.get("/").text
    assert re.search(r"selected>grain &lt;i&gt; \(default\)<", home)
    verdict = looked_at(client.get(f"/inspections/{id_of(inspected(client, micrograph('fine', 170)))}"))
    assert "no picture is kept here" not in verdict.text
    assert sum("/reference-sets/" in each and each.endswith("micrograph.png") for each in verdict.addresses) == 3
    other = re.search(r"/references/models/([0-9a-f]{32})/default", client.get("/references").text)[0]
    models = looked_at(client.post(other))
    assert models.text.count("● default") == 1


def test_addresses_of_nothing_are_pages_for_browsers_and_problems_for_programs(client):
    for address in ("/inspections/" + "0" * 32, "/references/" + "0" * 32, "/inspections/nonsense"):
        seen = client.get(address, headers=BROWSER)
        assert seen.status_code == 404
        assert Page(seen.text).wrong == []
        assert client.get(address).headers["content-type"] == "application/problem+json"
    assert client.get("/history?since=yesterday", headers=BROWSER).status_code == 400
    assert client.get("/history?decision=forged", headers=BROWSER).status_code == 400


def test_static_files_are_kept_and_asked_for_again_and_nothing_else_is_given(client):
    first = client.get("/static/pages.css")
    assert first.headers["cache-control"] == "no-cache"
    assert client.get("/static/pages.css", headers={"If-None-Match": first.headers["etag"]}).status_code == 304
    assert client.get("/static/..%2frendering.py").status_code == 404
    assert client.get("/static/htmx.LICENSE.txt").text.startswith("htmx.min.js is htmx 2")


def test_scripts_and_styles_fetch_nothing_from_elsewhere_and_evaluate_nothing():
    folder = _FILES.directory
    for file in folder.glob("*.[jc]s*"):
        if file.name != "htmx.min.js":
            text = file.read_text(encoding="utf-8")
            assert not re.search(r"https?://|\beval\(|new Function|@import", text), file.name


@pytest.fixture(scope="module")
def guarded(enrolled_folder, tmp_path_factory):
    settings = Settings(data=tmp_path_factory.mktemp("pages"), model=str(enrolled_folder))
    with TestClient(create_app(settings), base_url="http://127.0.0.1", follow_redirects=False) as client:
        yield client


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
    assert part.headers["HX-Redirect"] == "/sign-in?next=%2Fhistory"
    assert guarded.get("/history/inspections.csv").status_code == 401
    assert guarded.post("/inspect", files={"file": ("a.tif", b"x")}).status_code == 401
    wrong = guarded.post("/sign-in", data={"key": "fdk_nothing"})
    assert wrong.status_code == 401
    assert "not valid" in Page(wrong.text).text
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
        for word in ("Begin", "Enrol", "Overrule", "Add to references", "Mark flaw", "Remove", "Set as default"):
            assert word not in page.text.split("Models")[0], f"{word} on {place}"
    refused = guarded.post(f"{verdict}/overrule", data={"decision": "authentic", "reason": "no"}, headers=token)
    assert refused.status_code == 403
    assert "lacks the scope enrol" in refused.json()["detail"]
    assert guarded.post(f"{address}/enrol", data={"name": "m"}, headers=token).status_code == 403
    sign_in("enrol", "read")
    page = looked_at(guarded.get(address, headers=BROWSER))
    assert "have it judge by default" not in page.text, "that takes the scope admin"


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
    assert guarded.post("/sign-out", headers=token | HTMX).headers["HX-Redirect"] == "/sign-in"
    assert guarded.get("/", headers=BROWSER).status_code == 303, "signed out"


@given(
    st.text(max_size=30) | st.sampled_from(["//elsewhere.example", "/\\elsewhere.example", "https:/elsewhere", "/a\n"])
)
def test_signing_in_leads_to_a_page_of_the_service_and_nowhere_else(path):
    found = _own(path)
    parts = urlsplit(found)
    assert found.startswith("/")
    assert (parts.scheme, parts.netloc) == ("", "")
    assert found[1:2] not in ("/", "\\")
