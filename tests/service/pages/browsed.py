"""Pages as a test looks at them: what is in one, and whether the policy or a screen reader is against it."""

from __future__ import annotations

import time
from html.parser import HTMLParser

BROWSER = {"Accept": "text/html,application/xhtml+xml"}
HTMX = {"HX-Request": "true"}
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


def settled(client, answer) -> Page:
    """Follow a part of a page that tells how far a job is, until it tells what came of it."""
    while waits := [each for each in looked_at(answer).addresses if each.startswith("/references/jobs/")]:
        time.sleep(0.1)
        answer = client.get(waits[0].removesuffix("/cancel"), headers=HTMX)
    return looked_at(answer)


def inspected(client, content, name="a.tif", **headers):
    """Inspect a micrograph through the page, and return its row."""
    answer = client.post("/inspect", files={"file": (name, content)}, data={"alpha": "0.3"}, headers=headers)
    return looked_at(answer)


def id_of(page: Page) -> str:
    return next(each for each in page.addresses if each.startswith("/inspections/")).rpartition("/")[2]
