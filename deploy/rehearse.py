"""Runs the Dockerfile's steps without a container engine, starts the result, and asks it for a verdict.

    python deploy/rehearse.py /tmp/rehearsal --target cpu --build-arg EXTRAS=service

The steps of all stages that the target needs run in one folder, which replaces the root file system: paths such as
/opt/fusion-diff are mapped into it. This Python replaces that of the base image; the image's user must be able to run
it. Then the entry point starts as the image's user (if this runs as root), with only the environment of the image and
write access only to /data and /tmp. It has to get ready, be healthy, judge a procedural micrograph, leave every file of
the image unchanged, and stop on request. Not covered: the base image, layers, and the isolation by an engine.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, Request, build_opener

from dockerfile_parse import DockerfileParser

TOP = Path(__file__).resolve().parents[1]
PLACES = re.compile(r"(?<![\w./])/(source|wheel|opt/fusion-diff|data|tmp)(?=[/\s\"':]|$)")
READY_SECONDS = 180
STOP_SECONDS = 60
DRAW = """
import sys
from fusion_diff.synthetic import builtin_samples, write_micrographs
from pathlib import Path
write_micrographs(builtin_samples(1)[0][:1], ["sample"], Path(sys.argv[1]))
"""


Stage = tuple[dict[str, str], Path, tuple[int, int]]
"""Environment, folder and user that a stage ends with."""


class Image:
    """The state of a build: root folder, environment, user and commands."""

    def __init__(self, root: Path, arguments: dict[str, str]) -> None:
        self.root, self.given = root, arguments
        self.variables: dict[str, str] = {}
        self.environment: dict[str, str] = {}
        self.folder, self.user = root, (0, 0)
        self.commands: dict[str, list[str]] = {}

    def inside(self, text: str) -> str:
        """Return a text with paths of the image mapped into the root folder."""
        return PLACES.sub(lambda found: f"{self.root}/{found[1]}", text)

    def expand(self, text: str) -> str:
        """Return a text with variables expanded."""
        known = {**self.environment, **self.variables}
        return re.sub(r"\$\{?(\w+)\}?", lambda found: known.get(found[1], ""), text)

    def begin(self, base: str, stages: dict[str, Stage]) -> None:
        """Begin a stage on another stage or on the base image."""
        bare: Stage = {"PATH": f"{self.root / 'base' / 'bin'}:{os.defpath}"}, self.root, (0, 0)
        environment, self.folder, self.user = stages.get(base, bare)
        self.environment, self.variables = dict(environment), {}

    def step(self, instruction: str, value: str) -> None:
        """Run one step."""
        if instruction == "ARG":
            name, _, default = value.partition("=")
            self.variables[name] = self.given.get(name, default.strip('"'))
        elif instruction == "ENV":
            for name, text in re.findall(r"(\w+)=(\"[^\"]*\"|\S+)", value):
                self.environment[name] = self.expand(self.inside(text.strip('"')))
        elif instruction == "WORKDIR":
            self.folder = Path(self.inside(value))
            self.folder.mkdir(parents=True, exist_ok=True)
        elif instruction == "COPY":
            self._copy(value.split())
        elif instruction == "RUN":
            self._run(value)
        elif instruction == "USER":
            user, _, group = value.partition(":")
            self.user = (int(user), int(group))
        elif instruction in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
            self.commands[instruction] = json.loads(self.inside(value[value.index("[") :])) if "[" in value else []

    def _copy(self, words: list[str]) -> None:
        if words[0].startswith("--from"):
            return  # all stages share one root here
        *sources, target = words
        there = self.folder / self.inside(target) if not target.startswith("/") else Path(self.inside(target))
        for name in sources:
            source = TOP / name
            if source.is_dir():
                shutil.copytree(source, there, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
                continue
            place = there / source.name if target.endswith("/") else there
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, place)

    def _run(self, value: str) -> None:
        value = self.inside(value)
        words = json.loads(value) if value.startswith("[") else ["/bin/sh", "-c", value]
        # Settings of pip, such as its index, come from the machine, as in a build by an engine.
        pip = {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
        print("RUN", *words, flush=True)
        subprocess.run(words, cwd=self.folder, env={**pip, **self.environment, **self.variables}, check=True)

    def start(self, words: list[str], environment: dict[str, str], **options: object) -> subprocess.Popen[str]:
        """Start a command as the image's user."""
        if os.geteuid() == 0:
            options |= {"user": self.user[0], "group": self.user[1], "extra_groups": []}
        return subprocess.Popen(words, env=environment, cwd=self.folder, text=True, **options)  # type: ignore[call-overload,no-any-return]


def build(work: Path, target: str, arguments: dict[str, str]) -> Image:
    """Run the steps of a target and of the stages that it needs."""
    steps = [
        (step["instruction"], step["value"])
        for step in DockerfileParser(path=str(TOP / "deploy" / "Dockerfile")).structure
        if step["instruction"] != "COMMENT"
    ]
    wanted, stage = {target}, ""
    names = [value.split()[2] for instruction, value in steps if instruction == "FROM"]
    uses: dict[str, set[str]] = {name: set() for name in names}
    for instruction, value in steps:
        if instruction == "FROM":
            base, _, stage = value.split()
            uses[stage].add(base)
        elif instruction == "COPY" and value.startswith("--from="):
            uses[stage].add(value.split()[0].partition("=")[2])
    for name in reversed(names):  # stages come after those they need
        if name in wanted:
            wanted |= uses[name]
    image = Image(work / "root", arguments)
    stages: dict[str, Stage] = {}
    image.root.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", image.root / "base"], check=True)
    for instruction, value in steps:
        if instruction == "FROM":
            base, _, stage = value.split()
            if stage in wanted:
                print(f"== {stage}", flush=True)
                image.begin(base, stages)
        elif stage in wanted:
            image.step(instruction, value)
            stages[stage] = image.environment, image.folder, image.user
    return image


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of every file."""
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


def ask(url: str, key: str = "", body: bytes | None = None, kind: str = "") -> bytes:
    """Return what the service answers."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    headers |= {"Content-Type": kind} if kind else {}
    direct = build_opener(ProxyHandler({}))  # the machine may name a proxy
    with direct.open(Request(url, data=body, headers=headers), timeout=120) as response:
        answered: bytes = response.read()
        return answered


@contextmanager
def running(service: subprocess.Popen[str], seconds: float = STOP_SECONDS) -> Iterator[None]:
    """Tell a service to stop at the end, and kill it if it does not in time.

    Raises:
        SystemExit: it did not stop in order.
    """
    try:
        yield
    finally:
        service.terminate()
        try:
            code = service.wait(seconds)
        except subprocess.TimeoutExpired:
            service.kill()
            code = service.wait()
    if code not in (0, -signal.SIGTERM):
        raise SystemExit(f"the service ended with {code} after it was told to stop")
    print("stopped with", code)


def rehearse(image: Image) -> None:
    """Start what the image starts, and see that it does its work.

    Raises:
        SystemExit: it does not.
    """
    program = image.root / "opt/fusion-diff"
    for path in [program, *program.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    for name in ("data", "tmp"):
        place = image.root / name
        place.mkdir(exist_ok=True)
        if os.geteuid() == 0:
            os.chown(place, *image.user)
    before = listing(program)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    environment = image.environment | {"TMPDIR": str(image.root / "tmp"), "FUSION_DIFF_HOST": "127.0.0.1"}
    environment["FUSION_DIFF_PORT"] = port
    cli = ["python", "-m", "fusion_diff"]

    def told(words: list[str]) -> str:
        process = image.start(words, environment, stdout=subprocess.PIPE)
        out, _ = process.communicate(timeout=120)
        if process.returncode:
            raise SystemExit(f"{words} failed with {process.returncode}")
        return out

    key = told([*cli, "service-keys", "new", "rehearsal", "--scope", "inspect", "--scope", "read"]).split()[-1]
    told(["python", "-c", DRAW, str(image.root / "tmp")])
    sample = (image.root / "tmp" / "sample-01.tif").read_bytes()
    print("START", *image.commands["ENTRYPOINT"], *image.commands["CMD"], flush=True)
    service = image.start([*image.commands["ENTRYPOINT"], *image.commands["CMD"]], environment)
    with running(service):
        url, started = f"http://127.0.0.1:{port}", time.monotonic()
        while True:
            try:
                print("/readyz", ask(f"{url}/readyz").decode(), f"after {time.monotonic() - started:.1f} s")
                break
            except URLError as error:
                if service.poll() is not None or time.monotonic() - started > READY_SECONDS:
                    raise SystemExit(f"the service did not become ready: {error}") from error
                time.sleep(0.5)
        told(image.commands["HEALTHCHECK"])
        print("healthy")
        edge = uuid.uuid4().hex
        head = f'--{edge}\r\nContent-Disposition: form-data; name="files"; filename="sample.tif"\r\n\r\n'
        body = head.encode() + sample + f"\r\n--{edge}--\r\n".encode()
        answer = json.loads(ask(f"{url}/v1/inspections", key, body, f"multipart/form-data; boundary={edge}"))
        (result,) = answer["results"]
        inspection = result["inspection"]
        print("verdict:", inspection["decision"], inspection["score"], len(inspection["regions"]), "regions")
        if b"fusion_diff_queue_depth" not in ask(f"{url}/metrics", key):
            raise SystemExit("/metrics has no fusion_diff_queue_depth")
    if listing(program) != before:
        raise SystemExit("files of the image were changed")
    written = sorted({path.name for path in (image.root / "data").iterdir()})
    print("as user", image.user[0] if os.geteuid() == 0 else os.geteuid(), "and wrote", *written)


def main() -> int:
    """Build and rehearse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="New folder that the image's user may enter.")
    parser.add_argument("--target", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    words = parser.parse_args()
    arguments = dict(each.split("=", 1) for each in words.build_arg)
    rehearse(build(words.work.resolve(), words.target, arguments))
    print("Rehearsal passed.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
