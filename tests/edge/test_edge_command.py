"""The command `fusion-diff-edge`, and its slim distribution."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tifffile

import fusion_diff
from fusion_diff.cli import app
from fusion_diff.commands.options import MaxPixels, Page
from fusion_diff.edge import EdgeSession
from fusion_diff.edge.__main__ import ELSEWHERE, MOST_PIXELS, main
from fusion_diff.inspection import run
from fusion_diff.micrograph import MIN_SIDE
from fusion_diff.micrograph.ifd import MAX_PAGES
from fusion_diff.printable import explained
from fusion_diff.synthetic import generate
from fusion_diff.trust.ledger import Ledger

PACKAGING = Path(__file__).parents[2] / "packaging" / "edge" / "pyproject.toml"


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    path = tmp_path_factory.mktemp("samples") / "crack.tif"
    pixels = generate(3, size=224, material="alumina", flaw="crack").pixels
    tifffile.imwrite(path, np.rint(pixels * 65535).astype(np.uint16))
    return path


def test_inspect_prints_and_records_verdicts(exported_folder, sample, tmp_path, capsys):
    records = tmp_path / "r.jsonl"
    code = main(["inspect", str(sample), "--model", str(exported_folder), "--threads", "1", "--json", str(records)])
    said = capsys.readouterr()
    assert code in (1, 2)
    path, score, decision, _ = said.out.rstrip("\n").split("\t")
    record = json.loads(records.read_text())
    assert (path, decision) == (str(sample), record["decision"])
    assert float(score) == pytest.approx(record["score"], abs=1e-3)
    assert "built-in procedural references only" in said.err


def test_that_nothing_can_be_decided_is_said_before_the_first_micrograph(exported_folder, sample, capsys):
    needed = "Warning: nothing can be decided: alpha 0.001 needs 999 references on each side, but there are "
    for alpha, said in (("0.001", True), ("0.2", False)):
        main(["inspect", str(sample), "--model", str(exported_folder), "--threads", "1", "--alpha", alpha])
        assert (needed in capsys.readouterr().err) is said


def test_records_on_stdout_stand_there_alone(exported_folder, sample, capsys):
    main(["inspect", str(sample), "--model", str(exported_folder), "--threads", "1", "--json", "-"])
    assert json.loads(capsys.readouterr().out)["path"] == str(sample)


def test_out_of_scope_is_warned_of_beside_the_columns(changed, sample, capsys):
    folder = changed(scope_limit=0.0)
    code = main(["inspect", str(sample), "--model", str(folder), "--threads", "1"])
    said = capsys.readouterr()
    assert code == 2
    assert said.out.rstrip("\n").split("\t")[2] == "inconclusive"
    assert f"Warning: {sample}: Out of scope: as a whole it is unlike every reference" in said.err


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("--alpha", "abc", "argument --alpha: must be a number, not 'abc'"),
        ("--alpha", "1", "argument --alpha: must lie between 0 and 1, not 1"),
        ("--alpha", "nan", "argument --alpha: must lie between 0 and 1, not nan"),
        ("--pixel-size", "inf", "argument --pixel-size: must be a finite number greater than 0, not inf"),
        ("--page", "-1", "argument --page: must be a whole number from 0 to 99999, not '-1'"),
        ("--page", "100000", "argument --page: must be a whole number from 0 to 99999, not '100000'"),
        ("--max-pixels", "1023", f"argument --max-pixels: must be a whole number from 1024 to {2**34}, not '1023'"),
        ("--max-pixels", "1e9", f"argument --max-pixels: must be a whole number from 1024 to {2**34}, not '1e9'"),
        ("--threads", "0", "argument --threads: must be a whole number from 1 to 1024, not '0'"),
        ("--threads", "99999999999", "argument --threads: must be a whole number from 1 to 1024, not '99999999999'"),
    ],
)
def test_a_value_that_an_option_does_not_take_is_named_with_what_it_takes(option, value, says, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", "a", "--model", "b", option, value])
    assert stopped.value.code == 3
    assert capsys.readouterr().err.endswith(f"Error: {says}\n")


def test_what_cannot_be_inspected_is_said_and_exits_with_3(exported_folder, sample, tmp_path, capsys):
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    assert main(["inspect", str(tmp_path / "broken.tif"), "--model", str(exported_folder)]) == 3
    assert "broken.tif" in capsys.readouterr().err
    assert main(["inspect", str(sample), "--model", str(tmp_path)]) == 3
    assert "Error: " in capsys.readouterr().err
    for words in (["inspect"], ["inspect", "a", "--model", "b", "--alpha", "2"], ["nonsense"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 3


@pytest.mark.parametrize("named", ["input", "link", "image", "model", "new in model", "key", "ledger"])
def test_records_overwrite_no_input_image_model_key_or_ledger(exported_folder, sample, tmp_path, capsys, named):
    model = tmp_path / "model"
    shutil.copytree(exported_folder, model)
    shutil.copy(sample, tmp_path / "a.tif")
    shutil.copy(sample, tmp_path / "b.tif")
    (tmp_path / "link").symlink_to("a.tif")
    (tmp_path / "lab.key").write_text("Expires: 2030-01-01T00:00:00Z\n-----BEGIN PRIVATE KEY-----\nsecret\n")
    Ledger(tmp_path / "v.jsonl").append({"a": 1})
    output, why = {
        "input": (tmp_path / "a.tif", "is one of the inputs"),
        "link": (tmp_path / "link", "is one of the inputs"),
        "image": (tmp_path / "b.tif", "is an existing image"),
        "model": (model / "edge.json", "lies in the folder of a model"),
        "new in model": (model / "r.jsonl", "lies in the folder of a model"),
        "key": (tmp_path / "lab.key", "is a key or a certificate, which is not overwritten; name another file"),
        "ledger": (tmp_path / "v.jsonl", "is a ledger or its head, which is not overwritten; name another file"),
    }[named]
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert main(["inspect", str(tmp_path / "a.tif"), "--model", str(model), "--json", str(output)]) == 3
    assert f"Error: --json {output}: {why}" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"fusion-diff-edge {fusion_diff.__version__}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_record_that_cannot_be_written_is_told_as_the_whole_installation_tells_it(exported_folder, sample, capsys):
    assert main(["inspect", str(sample), "--model", str(exported_folder), "--json", "/proc/r.jsonl"]) == 3
    assert capsys.readouterr().err.endswith(
        "Error: /proc/r.jsonl: cannot be used (No such file or directory); check the path, its permissions and the "
        "free disk space\n"
    )


def test_the_page_and_the_limit_are_those_that_errors_recommend(exported_folder, sample, tmp_path, capsys):
    stack, records = tmp_path / "stack.tif", tmp_path / "r.jsonl"
    pixels = tifffile.imread(sample)
    with tifffile.TiffWriter(stack) as tif:
        for levels in (np.random.default_rng(0).integers(0, 2**16, pixels.shape, np.uint16), pixels):
            tif.write(levels, contiguous=False)
    words = ["inspect", str(stack), "--model", str(exported_folder), "--threads", "1", "--json", str(records)]
    main(words)
    assert "--page 0 on the command line" in capsys.readouterr().err
    first = json.loads(records.read_text())
    main([*words, "--page", "1"])
    assert "--page" not in capsys.readouterr().err
    second = json.loads(records.read_text())
    main(["inspect", str(sample), *words[2:]])
    assert ("page" in first, second["page"]) == (False, 1)
    assert second["score"] == json.loads(records.read_text())["score"] != first["score"]
    assert main([*words, "--page", "1", "--max-pixels", str(224 * 224 - 1)]) == 3
    assert "more than the limit of 50,175" in capsys.readouterr().err
    assert main([*words, "--page", "1", "--max-pixels", str(224 * 224)]) in (1, 2)


def test_the_page_and_the_limit_have_the_bounds_of_the_whole_installation():
    page, limit = (get_args(option)[1] for option in (Page, MaxPixels))
    assert (page.min, page.max) == (0, MAX_PAGES - 1)
    assert (limit.min, limit.max) == (MIN_SIDE**2, MOST_PIXELS)


def test_a_fault_or_a_stop_is_no_verdict(sample, monkeypatch, capsys):
    for fault, code, says in (
        (RuntimeError("a fault of ours"), 3, "RuntimeError: a fault of ours"),
        (RuntimeError("std::bad_alloc"), 3, f"Error: {explained(MemoryError())}"),
        (RuntimeError("can't start new thread"), 3, f"Error: {explained(MemoryError())}"),
        (KeyboardInterrupt(), 130, "Stopped."),
    ):

        def load(*_, fault=fault, **__):
            raise fault

        monkeypatch.setattr(EdgeSession, "load", load)
        assert main(["inspect", str(sample), "--model", "any"]) == code
        said = capsys.readouterr()
        assert (said.out, said.err.splitlines()[-1]) == ("", says)


def test_a_name_that_the_terminal_cannot_show_loses_no_verdict(exported_folder, sample, tmp_path):
    named = tmp_path / "日本.tif"
    named.write_bytes(Path(sample).read_bytes())
    words = ["-m", "fusion_diff.edge", "inspect", named, sample, "--model", exported_folder, "--threads", "1"]
    latin = os.environ | {"PYTHONIOENCODING": "cp1252"}
    done = subprocess.run([sys.executable, *words], env=latin, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1, 2)
    assert "\\u65e5\\u672c.tif\t" in done.stdout
    assert len(done.stdout.splitlines()) == 2


def test_what_the_export_lacks_is_told_before_the_verdicts(exported_folder, sample, capsys):
    main(["inspect", str(sample), "--model", str(exported_folder), "--threads", "1"])
    assert (
        "Warning: fusion-diff-v1-ceramic: an exported model does not recognise the surfaces" in capsys.readouterr().err
    )


def test_words_of_a_strangers_export_steer_no_terminal(changed, sample, capsys):
    folder = changed(name="line\x1b[31m", notes=["it is verified\x1b]0;PWN\x07\nError: forged"], authentic="a\x1b[2J")
    main(["inspect", str(sample), "--model", str(folder), "--threads", "1", "--alpha", "0.001"])
    said = capsys.readouterr()
    assert all(line.replace("\t", " ").isprintable() for line in (said.out + said.err).split("\n"))
    assert r"Warning: line\x1b[31m: it is verified\x1b]0;PWN\x07 Error: forged" in said.err.splitlines()


def test_a_closed_pipe_is_no_verdict(exported_folder, sample):
    words = ["-m", "fusion_diff.edge", "inspect", sample, "--model", exported_folder, "--threads", "1"]
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([sys.executable, *words], stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, "BrokenPipe" in done.stderr) == (3, False)
    assert "Error: the run broke off, as the reader of its output has gone" in done.stderr
    reader, writer = os.pipe()
    os.close(reader)
    both = subprocess.run([sys.executable, *words], stdout=writer, stderr=writer, check=False)
    os.close(writer)
    assert both.returncode == 3


def test_no_thumbnail_is_drawn_for_nobody(exported_folder, sample, monkeypatch):
    def draw(*_):
        raise AssertionError

    monkeypatch.setattr(run, "thumbnail", draw)
    assert main(["inspect", str(sample), "--model", str(exported_folder), "--threads", "1"]) in (1, 2)


@pytest.mark.parametrize("command", ELSEWHERE)
def test_other_commands_say_what_to_install(command, capsys):
    assert main([command, "x"]) == 3
    assert capsys.readouterr().err == (
        f"Error: {command} needs the full FusionDiff, not only its edge package; "
        "install fusion-diff from its checkout or wheel in place of fusion-diff-edge\n"
    )


def test_every_other_command_is_known():
    registered = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    assert registered - {"inspect"} == set(ELSEWHERE)


@pytest.fixture(scope="module")
def slim(tmp_path_factory):
    """The files of the slim distribution only."""
    root = tmp_path_factory.mktemp("slim")
    build = tomllib.loads(PACKAGING.read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    for source, target in build["force-include"].items():
        source, target = (PACKAGING.parent / source).resolve(), root / target
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    return root


def run_slim(slim, program, *words):
    """Run a program that can import only the slim distribution, NumPy, tifffile and onnxruntime."""
    heavy = ["torch", "scipy", "sklearn", "cv2", "transformers", "diffusers", "safetensors", "typer", "rich"]
    heavy += ["imagecodecs", "PIL", "onnx"]
    source = str(Path(fusion_diff.__file__).parents[1])
    guard = (
        f"import sys; sys.path[:] = [{str(slim)!r}, *(p for p in sys.path if p != {source!r})];"
        f"sys.modules.update(dict.fromkeys({heavy!r}))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", guard + program, *map(str, words)],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONPATH": ""},
        check=False,
    )


def test_the_slim_distribution_inspects_by_itself(slim, exported_folder, sample):
    program = "from fusion_diff.edge.__main__ import main; sys.exit(main(sys.argv[1:]))"
    done = run_slim(slim, program, "inspect", sample, "--model", exported_folder, "--threads", 1)
    assert done.returncode in (1, 2), done.stderr
    assert "crack.tif" in done.stdout


def test_the_slim_distribution_says_what_it_lacks(slim, tmp_path):
    for name in ("DiffusionModel", "synthetic"):
        for program in (f"from fusion_diff import {name}", f"import fusion_diff; fusion_diff.{name}"):
            done = run_slim(slim, program)
            assert (
                f"{name} needs the full FusionDiff, but only its edge package is installed; install fusion-diff"
                in done.stderr
            )
    tifffile.imwrite(tmp_path / "packed.tif", np.eye(64, dtype=np.uint16), compression="lzw")
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(60))
    program = "from fusion_diff import load_microstructure_data as load; load(sys.argv[1])"
    for name in ("packed.tif", "p.png"):
        done = run_slim(slim, program, tmp_path / name)
        assert (
            "pip install imagecodecs pillow (part of the extra 'images'), or save it as an uncompressed TIFF"
            in done.stderr
        )


def test_both_distributions_have_one_version():
    whole = tomllib.loads((PACKAGING.parents[2] / "pyproject.toml").read_text())
    slim = tomllib.loads(PACKAGING.read_text())
    assert whole["project"]["version"] == slim["project"]["version"] == fusion_diff.__version__
