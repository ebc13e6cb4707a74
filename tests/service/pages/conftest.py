"""A service on a port of its own, and a browser that goes there."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import uvicorn

from fusion_diff.service.app import create_app
from fusion_diff.service.settings import Settings

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

PATIENCE = 120_000  # milliseconds, for a busy machine


@contextmanager
def _served(**settings: object) -> Iterator[str]:
    """Serve in this process, and give the address."""
    config = uvicorn.Config(create_app(Settings(**settings)), host="127.0.0.1", port=0, log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            thread.join(0.05)
            assert thread.is_alive(), "the service does not start"
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Serves on a port of its own until the test ends, and gives the address."""
    with ExitStack() as running:
        yield lambda **settings: running.enter_context(_served(**settings))


@pytest.fixture
def address(served, tmp_path: Path) -> str:
    """Where a service answers that starts with the embedded model and asks for no key."""
    return served(data=tmp_path / "data", insecure=True)


@pytest.fixture(scope="module")
def shared_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The same, of a service that the tests of a module share."""
    with _served(data=tmp_path_factory.mktemp("shared"), insecure=True) as address:
        yield address


@pytest.fixture(scope="session")
def browser() -> Iterator[object]:
    """Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the extra `browser` is not installed")
    executable = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if executable is None:
        pytest.skip("Chromium is not installed")
    playwright.expect.set_options(timeout=PATIENCE)
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, served) -> Iterator[Callable]:
    """Opens a page on a service; what the browser complains of fails the test.

    Pages close before the services that `served` started do: no request of theirs is refused.
    """
    contexts, complaints = [], []

    def opened(address: str, tolerated: str = "\0", **options: object):
        context = browser.new_context(
            base_url=address, viewport={"width": 1360, "height": 900}, accept_downloads=True, **options
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        page = context.new_page()
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda it: it.type == "error" and tolerated not in it.text and complaints.append(it.text),
        )
        page.on("request", lambda request: request.url.startswith((address, "blob:")) or complaints.append(request.url))
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []
