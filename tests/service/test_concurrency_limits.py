"""Slots: so many micrographs are decoded at once, and whoever waits too long is told so."""

from __future__ import annotations

import asyncio
import io
import threading

import anyio
import pytest
from anyio import to_thread
from PIL import Image

from fusion_diff.service import concurrency_limits
from fusion_diff.service.problems import BusyError


def test_so_many_are_decoded_at_once(client, monkeypatch):
    monkeypatch.setattr(concurrency_limits, "PATIENCE_SECONDS", 0.05)
    rest, begun = threading.Event(), threading.Semaphore(0)

    def work():
        begun.release()
        rest.wait()
        return "done"

    async def many():
        decode = client.app.state.service.slots.decode
        slow = [asyncio.create_task(decode("one", work)) for _ in range(concurrency_limits.DECODERS)]
        try:
            for _ in slow:
                await to_thread.run_sync(begun.acquire)
            with pytest.raises(BusyError, match="try again"):
                await decode("another", work)
            with monkeypatch.context() as crowded:
                crowded.setattr(concurrency_limits, "PATIENCE_SECONDS", 1000)
                crowded.setattr(concurrency_limits, "WAITING", 0)
                with pytest.raises(BusyError, match="try again"):
                    await decode("one", work)
        finally:
            rest.set()
        return await asyncio.gather(*slow), await decode("another", work)

    assert client.portal.call(many) == (["done"] * concurrency_limits.DECODERS, "done")
    assert [begun.acquire(blocking=False) for _ in range(2)] == [True, False], "the last one, and not who was refused"


def test_who_asks_for_one_micrograph_does_not_wait_behind_all_that_another_asks_for(client):
    done, gates = [], [threading.Event() for _ in range(concurrency_limits.DECODERS)]

    async def many():
        decode = client.app.state.service.slots.decode
        greedy = [asyncio.create_task(decode("greedy", gate.wait)) for gate in gates]
        greedy += [
            asyncio.create_task(decode("greedy", lambda: done.append("greedy")))
            for _ in range(concurrency_limits.WAITING)
        ]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await decode("greedy", list)
        modest = asyncio.create_task(decode("modest", lambda: done.append("modest")))
        await asyncio.sleep(0)
        gates[0].set()
        try:
            await modest
        finally:
            gates[1].set()
        await asyncio.gather(*greedy)

    client.portal.call(many)
    assert (done[0], len(done)) == ("modest", 1 + concurrency_limits.WAITING)


def test_who_fails_or_leaves_the_line_gives_back_what_it_has(client):
    rest, decoders = threading.Event(), client.app.state.service.slots._decoders

    async def many():
        decode = client.app.state.service.slots.decode
        with pytest.raises(ZeroDivisionError):
            await decode("one", lambda: 1 / 0)
        slow = [asyncio.create_task(decode("one", rest.wait)) for _ in range(concurrency_limits.DECODERS)]
        leaving, staying = (asyncio.create_task(decode(name, lambda: "done")) for name in ("another", "third"))
        await asyncio.sleep(0)
        leaving.cancel()
        rest.set()
        assert await staying == "done"
        await asyncio.wait([*slow, leaving])
        return leaving.cancelled()

    assert client.portal.call(many)
    assert (decoders.free, decoders.waiting) == (concurrency_limits.DECODERS, {})
    assert not any(decoders.held.values())


def while_it_waits_for_a_decoder(client, images, files):
    """Send a reference, and return how many slots for uploads are taken when it waits for a decoder."""
    service, found = client.app.state.service, []

    async def look():
        with anyio.fail_after(60):
            while not service.slots._decoders.waiting:
                await asyncio.sleep(0.001)
        found.append(concurrency_limits.UPLOADS - service.slots._uploads.free)

    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(concurrency_limits, "PATIENCE_SECONDS", 2)
        looking = client.portal.start_task_soon(look)
        client.post(images, files=files, data={"label": "crack"})
        looking.result(60)
    return found[0]


def test_what_decodes_a_micrograph_takes_a_slot(client, micrograph, monkeypatch):
    made = client.post("/v1/reference-sets", json={"name": "slots", "authentic": "fine"}).json()["id"]
    images = f"/v1/reference-sets/{made}/images"
    buffer = io.BytesIO()
    Image.new("L", (64, 64), 255).save(buffer, "PNG")

    def sent(seed):
        return {"files": ("a.tif", micrograph("coarse", seed)), "mark": ("m.png", buffer.getvalue())}

    image = client.post(images, files=sent(195), data={"label": "crack"}).json()["results"][0]["reference"]["id"]
    files = {"files": ("a.tif", micrograph("fine", 195))}
    inspected = client.post("/v1/inspections", files=files).json()["results"][0]["inspection"]["id"]
    looks = [
        f"{images}/{image}/micrograph.png",
        f"{images}/{image}/mark.png",
        f"/v1/inspections/{inspected}/micrograph.png?top=0",
    ]
    mark = {"mark": ("m.png", buffer.getvalue())}

    def statuses():
        found = [client.get(each).status_code for each in looks]
        return [*found, client.put(f"{images}/{image}/mark", files=mark).status_code]

    assert statuses() == [200] * 4
    monkeypatch.setattr(concurrency_limits, "PATIENCE_SECONDS", 0.01)
    rest = threading.Event()

    async def occupy():
        decode = client.app.state.service.slots.decode
        tasks = [asyncio.create_task(decode("another", rest.wait)) for _ in range(concurrency_limits.DECODERS)]
        await asyncio.sleep(0)
        return tasks

    tasks = client.portal.call(occupy)
    try:
        assert statuses() == [429] * 4
        assert while_it_waits_for_a_decoder(client, images, sent(197)) == 1, "its files are still on the disk"
        added = client.post(images, files=sent(196), data={"label": "crack"}).json()["results"][0]
        assert added["problem"]["status"] == 429
        assert client.get(f"/v1/inspections/{inspected}/micrograph.png").status_code == 200, "it is stored reduced"
    finally:
        rest.set()
    client.portal.call(asyncio.wait, tasks)
    assert statuses() == [200] * 4
