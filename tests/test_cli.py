from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch
import typer

from fusion_diff.cli import main
from fusion_diff.errors import CheckpointError


@pytest.fixture
def run(call_with_darkness):
    return call_with_darkness


@pytest.fixture
def folder(tmp_path, save_micrograph):
    folder = tmp_path / "in"
    folder.mkdir()
    save_micrograph(folder / "bright.tif", 0.8)
    save_micrograph(folder / "grey.tif", 0.3)
    save_micrograph(folder / "spot.tif", 0.8, spot=True)
    return folder


def test_help_lists_the_commands_and_imports_nothing_heavy():
    program = (
        "import sys; from fusion_diff.cli import main; code = main(['--help']);"
        "heavy = {'torch', 'diffusers', 'transformers', 'sklearn', 'scipy', 'numpy', 'tifffile', 'jinja2', 'PIL'};"
        "print('HEAVY', sorted(heavy & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "utf-8"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for command in ("demo", "enroll", "inspect"):
        assert command in done.stdout
    assert "HEAVY []" in done.stdout


def test_the_exit_code_of_inspect_is_a_gate(run, folder):
    assert run("inspect", folder / "bright.tif")[0] == 0
    assert run("inspect", folder / "grey.tif")[0] == 2
    assert run("inspect", folder / "bright.tif", folder / "grey.tif", folder / "spot.tif")[0] == 1
    (folder / "broken.tif").write_bytes(b"nothing")
    code, out, err = run("inspect", folder)
    assert code == 3
    assert "1 could not be inspected" in out
    assert "broken.tif" in err


def test_inspect_writes_a_report_and_a_line_for_each_micrograph(run, folder, tmp_path):
    code, out, _ = run("inspect", folder, "--report", tmp_path / "report", "--pixel-size", "0.5", "--alpha", "0.2")
    assert code == 1
    assert str(tmp_path / "report" / "index.html") in out
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "spot.tif" in page
    records = [json.loads(line) for line in (tmp_path / "report" / "inspections.jsonl").read_text().splitlines()]
    assert [record["decision"] for record in records] == ["authentic", "inconclusive", "not authentic"]
    assert {record["alpha"] for record in records} == {0.2}
    assert {record["pixel_size_um"] for record in records} == {0.5}


def test_records_can_be_had_without_a_report_and_elsewhere(run, folder, tmp_path):
    run("inspect", folder, "--json", tmp_path / "r.jsonl")
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "r.jsonl"]


def test_a_piped_table_has_a_line_for_each_micrograph_and_no_control_codes(run, tmp_path, save_micrograph):
    name = "long-" * 40 + "\x1b[31m.tif"
    save_micrograph(tmp_path / name, 0.8)
    _, out, _ = run("inspect", tmp_path / name)
    assert "\x1b" not in out
    (line,) = [line for line in out.splitlines() if "long-long" in line]
    assert "✓ authentic" in line
    assert line.rstrip().endswith("│")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "missing.tif"], "missing.tif"),
        (["inspect"], "Missing argument"),
        (["inspect", "x.tif", "--alpha", "1"], "between 0 and 1"),
        (["inspect", "x.tif", "--pixel-size", "nan"], "greater than 0"),
        (["enroll", "refs", "--out", "m"], "--authentic"),
        (["enroll", "refs.csv", "--authentic", "a", "--out", "m", "--groups", "x"], "columns"),
        (["enroll", "missing", "--authentic", "a", "--out", "m"], "missing"),
        (["audit", "missing"], "missing: there is no such file or folder; check the path"),
        (["keys", "new", "missing/K"], "missing/K.pub: cannot be used (No such file or directory); check the path"),
        (["nonsense"], "nonsense"),
    ],
)
def test_what_cannot_be_done_exits_with_3_and_says_why_on_stderr(run, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*words)
    assert code == 3
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_neither_a_usage_error_nor_a_warning_steers_a_terminal(run, tmp_path, monkeypatch, save_micrograph):
    save_micrograph(tmp_path / "a.tif", 0.8)
    code, out, err = run("audit", tmp_path / "none\x1b[31m\u202e")
    assert (code, out) == (3, "")
    assert r"none\x1b[31m\u202e" in re.sub(r"[\s│]", "", err)
    assert "\x1b" not in err

    def warning(name, device, trusted_keys):
        warnings.warn("of\x1b[31m\nError: forged", stacklevel=1)
        raise CheckpointError("no model")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", warning)
    assert run("inspect", tmp_path / "a.tif")[2] == "Warning: of\\x1b[31m Error: forged\nError: no model\n"


@pytest.mark.parametrize("option", ["--report", "--json", "--record", "--junit", "--sarif", "--markdown", "--csv"])
def test_where_nothing_can_be_written_is_told_before_a_micrograph_is_read(run, folder, tmp_path, option):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    code, out, err = run("inspect", folder, option, tmp_path / ("file" if option == "--report" else "folder"))
    assert (code, out) == (3, "")
    assert option in err
    assert (tmp_path / "file").read_text() == "mine"


def test_an_error_about_the_model_is_said_without_a_traceback(run, folder, monkeypatch):
    def refuse(name, device, trusted_keys):
        raise CheckpointError(f"{name}: there is no such model; check the name")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", refuse)
    code, _, err = run("inspect", folder, "--model", "nowhere[/red]")
    assert (code, err) == (3, "Error: nowhere[/red]: there is no such model; check the name\n")


def test_a_lack_of_memory_is_said_without_a_traceback(run, folder, monkeypatch):
    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", lambda *_: torch.empty(2**60))
    code, _, err = run("inspect", folder)
    assert (code, err) == (
        3,
        "Error: not enough memory; close other programs, or use fewer or smaller micrographs\n",
    )


def test_a_fault_in_the_program_is_never_taken_for_a_verdict(run, folder, monkeypatch):
    def broken(name, device, trusted_keys):
        raise ZeroDivisionError

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", broken)
    code, _, err = run("inspect", folder)
    assert code == 3
    assert "ZeroDivisionError" in err


def test_warnings_are_told_in_one_line(run, folder, monkeypatch, darkness_model):
    import warnings

    def warn(name, device, trusted_keys):
        warnings.warn("these are the built-in references", UserWarning, stacklevel=2)
        return darkness_model

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", warn)
    _, _, err = run("inspect", folder / "bright.tif")
    assert err == "Warning: these are the built-in references\n"


def test_the_version_is_printed(run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("fusion-diff ")


def test_a_reader_that_has_gone_is_no_verdict(tmp_path):
    """`inspect … | head` must not end as if a micrograph were not authentic."""
    (tmp_path / "policy.toml").write_text('format = "fusion-diff/policy/1"\n', encoding="utf-8")
    words = [sys.executable, "-m", "fusion_diff", "policy", "check", str(tmp_path / "policy.toml")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 3
    assert said == ""


@pytest.mark.parametrize("how", [KeyboardInterrupt, EOFError])
def test_who_stops_a_command_is_told_that_it_stopped(run, folder, monkeypatch, how):
    def stopped(name, device, trusted_keys):
        raise how

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", stopped)
    code, out, err = run("inspect", folder)
    assert (code, out) == (130, "")
    assert err.strip() == "Stopped."


def test_help_shows_what_an_address_of_a_database_looks_like(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for words in (["serve"], ["service-keys", "new"]):
        code, out, _ = run(*words, "--help")
        assert code == 0
        assert "postgresql://HOST/NAME;" in out


def test_help_shows_no_type_behind_flags(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERMINAL_WIDTH", "120")
    for words in ([], ["keys", "new"], ["batch"]):
        code, out, _ = run(*words, "--help")
        assert code == 0
        assert "bool" not in out.lower()
    assert re.search(r"--alpha +\S*float", out.lower())  # other types are shown


def test_paragraphs_of_help_are_broken_at_the_width_alone(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = run("batch", "--help")[1]
    (last,) = [line.split() for line in out.splitlines() if "130" in line]
    assert last[-1] != "130", "a line of the source ends there"


def test_the_package_runs_as_the_command_line_does(tmp_path):
    words = [sys.executable, "-m", "fusion_diff", "inspect", "missing.tif"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == "Error: missing.tif: there is no such file or folder; check the path\n"


def test_help_says_what_a_certificate_costs(run):
    out = " ".join(word for word in run("certify", "--help")[1].split() if word != "│")
    assert "as long as one `inspect --purify`" in out
    assert "fast" not in out


def test_what_is_wrong_with_several_files_is_told_line_by_line(call_cli, save_micrograph, tmp_path):
    (tmp_path / "refs" / "sound").mkdir(parents=True)
    for name in ("a", "b"):
        save_micrograph(tmp_path / "refs" / "sound" / f"{name}.tif", 0.5)
    words = ("enroll", tmp_path / "refs", "--authentic", "sound", "--page", "7", "--out", tmp_path / "out")
    code, _, err = call_cli(*words)
    assert code == 3
    told = [line.partition(": it has 1 page")[0] for line in err.splitlines() if line.startswith("Error: ")]
    assert told == [
        "Error: 2 of 2 references cannot be used; correct or remove them:",
        *(f"Error: {tmp_path / 'refs' / 'sound' / name}.tif" for name in ("a", "b")),
    ]


@pytest.mark.parametrize("named", ["Lot [3]", "$LOT"])
@pytest.mark.usefixtures("call_with_darkness")
def test_on_windows_a_file_that_is_named_is_the_file_that_is_read(named, folder, tmp_path, monkeypatch):
    """Not what its name matches as a pattern, or with a variable in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOT", "Lot 3")
    for name, micrograph in ((named, "bright"), ("Lot 3", "spot")):
        (tmp_path / name).mkdir()
        (folder / f"{micrograph}.tif").rename(tmp_path / name / "a.tif")
    monkeypatch.setattr(typer.core, "os", SimpleNamespace(**vars(os) | {"name": "nt"}))
    monkeypatch.setattr(sys, "argv", ["fusion-diff", "inspect", f"{named}/a.tif"])
    assert main() == 0
    monkeypatch.setattr(sys, "argv", ["fusion-diff", "inspect", "Lot ?/*.tif"])
    assert main() == 1, "a pattern still is one"
