"""The rehearsal does a Dockerfile's steps in a folder as an engine does them in a root."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

pytest.importorskip("dockerfile_parse")


@pytest.fixture
def rehearse(deploy):
    spec = importlib.util.spec_from_file_location("rehearse", deploy / "rehearse.py")
    rehearse = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(rehearse)
    return rehearse


@pytest.fixture
def image(rehearse, tmp_path):
    image = rehearse.Image(tmp_path, {"EXTRAS": "service"})
    image.begin("${BASE}", {})
    return image


def test_paths_of_the_image_lie_in_its_root_and_those_of_the_machine_stay(image, tmp_path):
    told = image.inside('cp /wheel/a.whl /data && PATH=/opt/fusion-diff/bin:/usr/bin "/tmp" mydata/source')
    assert told == (
        f'cp {tmp_path}/wheel/a.whl {tmp_path}/data && PATH={tmp_path}/opt/fusion-diff/bin:/usr/bin "{tmp_path}/tmp" '
        "mydata/source"
    )


def test_a_step_finds_what_earlier_ones_set(image, tmp_path, deploy):
    image.step("ARG", 'EXTRAS="service,batch"')
    image.step("ARG", "VERSION=0.1.0")
    image.step("ENV", "PATH=/opt/fusion-diff/bin:$PATH HOME=/tmp")
    image.step("WORKDIR", "/source")
    image.step("COPY", "deploy/start.py deploy/Dockerfile ./")
    image.step("RUN", 'echo "${EXTRAS} ${VERSION} $HOME" > told')
    assert (tmp_path / "source" / "told").read_text().split() == ["service", "0.1.0", f"{tmp_path}/tmp"]
    assert (tmp_path / "source" / "start.py").read_bytes() == (deploy / "start.py").read_bytes()
    assert image.environment["PATH"].startswith(f"{tmp_path}/opt/fusion-diff/bin:{tmp_path}/base/bin")


def test_what_runs_is_what_the_last_steps_say(image, tmp_path):
    image.step("USER", "10001:10001")
    image.step("ENTRYPOINT", '["python", "/opt/fusion-diff/start.py"]')
    image.step("HEALTHCHECK", '--timeout=5s CMD ["python", "healthy"]')
    image.step("CMD", '["serve"]')
    assert image.user == (10001, 10001)
    assert image.commands == {
        "ENTRYPOINT": ["python", f"{tmp_path}/opt/fusion-diff/start.py"],
        "HEALTHCHECK": ["python", "healthy"],
        "CMD": ["serve"],
    }


def test_a_step_that_fails_ends_it(image):
    with pytest.raises(subprocess.CalledProcessError):
        image.step("RUN", '["false"]')


@pytest.mark.parametrize(
    ("on_request", "told"),
    [
        ("signal.SIG_DFL", None),
        ("lambda *_: sys.exit(0)", None),
        ("lambda *_: sys.exit(3)", "ended with 3"),
        ("signal.SIG_IGN", "ended with -9"),
    ],
)
def test_a_service_has_to_stop_in_order(rehearse, on_request, told):
    program = f"import signal, sys, time; signal.signal(signal.SIGTERM, {on_request}); print(flush=True)"
    words = [sys.executable, "-c", f"{program}; time.sleep(60)"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as service:
        service.stdout.readline()
        seconds = 0.1 if on_request == "signal.SIG_IGN" else 60
        if told is None:
            with rehearse.running(service, seconds):
                pass
        else:
            with pytest.raises(SystemExit, match=told), rehearse.running(service, seconds):
                pass
        assert service.returncode is not None


def test_a_stage_goes_on_as_the_user_of_the_one_it_begins_on(image):
    image.step("USER", "10001:10001")
    stages = {"runtime": (image.environment, image.folder, image.user)}
    image.begin("runtime", stages)
    assert image.user == (10001, 10001)
    image.begin("${BASE}", stages)
    assert image.user == (0, 0)
