"""Outputs of inspect, enroll, export and audit: refused before the work where they cannot or must not be written."""

from __future__ import annotations

import errno
import html
import json
import os
from pathlib import Path
from xml.etree import ElementTree

import pytest
import typer

from fusion_diff.commands.outputs import Output, check_outputs, expect_folder, expect_writable
from fusion_diff.errors import CheckpointError

OPTIONS = ["--json", "--junit", "--sarif", "--markdown", "--csv", "--record"]


@pytest.fixture
def new(tmp_path, save_micrograph):
    folder = tmp_path / "new"
    folder.mkdir()
    save_micrograph(folder / "a.tif", 0.8)
    save_micrograph(folder / "b.tif", 0.85)
    return folder


@pytest.fixture
def line_7(tmp_path):
    """What is known of a model before it is loaded: the list of its files."""
    model = tmp_path / "line-7"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "manifest.json").write_text('{"format": "fusion-diff/checkpoint/1", "sha256": {"config.json": ""}}')
    return model


@pytest.fixture
def no_model(monkeypatch):
    def load(*_):
        pytest.fail("the model was loaded")

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_pattern_that_the_shell_expanded_overwrites_no_micrograph(run, new, no_model, option):
    before = (new / "a.tif").read_bytes()
    code, out, err = run("inspect", option, "new/a.tif", "new/b.tif")
    assert (code, out) == (3, "")
    assert f"{option} new/a.tif: is an existing image" in err
    assert (new / "a.tif").read_bytes() == before


@pytest.mark.parametrize("option", OPTIONS)
def test_an_input_is_not_overwritten_by_any_of_its_names(run, new, no_model, tmp_path, option):
    (new / "a.tif").rename(tmp_path / "micrograph")
    os.link(tmp_path / "micrograph", tmp_path / "other")
    (tmp_path / "link").symlink_to("micrograph")
    before = (tmp_path / "micrograph").read_bytes()
    for name in ("micrograph", "new/../micrograph", "other", "link"):
        code, _, err = run("inspect", "micrograph", option, name)
        assert code == 3
        assert f"{option} {name}: is one of the inputs, which are not overwritten" in err
    assert (tmp_path / "micrograph").read_bytes() == before


@pytest.mark.parametrize("option", OPTIONS)
def test_a_key_is_not_overwritten(run, new, no_model, tmp_path, option):
    assert run("keys", "new", "lab.key", "--days", "9")[0] == 0
    before = {name: (tmp_path / name).read_bytes() for name in ("lab.key", "lab.key.pub")}
    for name in before:
        code, _, err = run("inspect", "new", option, name)
        assert code == 3
        assert f"{option} {name}: is a key or a certificate, which is not overwritten; name another file" in err
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


@pytest.fixture
def evidence(run, new, tmp_path):
    """What is signed and recorded: (its files, the words that say what each is)."""
    assert run("inspect", "new", "--record", "v.jsonl")[0] == 0
    assert run("keys", "new", "K")[0] == 0
    assert run("sign", "new/a.tif", "--key", "K", "--out", "line-7.sig")[0] == 0
    assert run("keys", "revoke", "K", "--because", "lost")[0] == 0
    ledger, signature = "a ledger or its head", "a signature or a signed statement"
    kinds = {"v.jsonl": ledger, "v.jsonl.head": ledger, "line-7.sig": signature, "K.pub.revoked.json": signature}
    return {tmp_path / name: kind for name, kind in kinds.items()}


@pytest.mark.parametrize("option", OPTIONS[:-1])
def test_a_ledger_and_what_is_signed_are_not_overwritten(run, new, evidence, option):
    before = {file: file.read_bytes() for file in evidence}
    for file, kind in evidence.items():
        code, _, err = run("inspect", "new", option, file.name)
        assert code == 3
        assert f"{option} {file.name}: is {kind}, which is not overwritten; name another file" in err
    assert {file: file.read_bytes() for file in evidence} == before


def test_a_ledger_goes_on_and_a_signature_is_renewed(run, new, evidence, tmp_path):
    assert run("inspect", "new", "--record", "line-7.sig")[0] == 3
    assert run("inspect", "new", "--record", "v.jsonl")[0] == 0
    assert len((tmp_path / "v.jsonl").read_text().splitlines()) == 5, "a header and two lots"
    assert run("keys", "new", "L")[0] == 0
    before = (tmp_path / "line-7.sig").read_bytes()
    assert run("sign", "new/a.tif", "--key", "L", "--out", "v.jsonl")[0] == 3
    assert run("sign", "new/a.tif", "--key", "L", "--out", "line-7.sig")[0] == 0
    assert (tmp_path / "line-7.sig").read_bytes() != before


@pytest.mark.parametrize(
    "path",
    [
        "-----BEGIN PRIVATE KEY-----",
        '"format":"fusion-diff/ledger/1"',
        '{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json"',
    ],
)
def test_records_that_speak_of_such_files_are_none(tmp_path, path):
    (tmp_path / "r.jsonl").write_text(json.dumps({"path": path}) + "\n")
    check_outputs([Output("--json", tmp_path / "r.jsonl", in_place=True)], [])


def test_a_policy_is_an_input_too(run, new, no_model, tmp_path):
    (tmp_path / "policy.toml").write_text('format = "fusion-diff/policy/1"\n')
    code, _, err = run("inspect", "new", "--policy", "policy.toml", "--markdown", "policy.toml")
    assert code == 3
    assert "--markdown policy.toml: is one of the inputs" in err
    assert (tmp_path / "policy.toml").read_text() == 'format = "fusion-diff/policy/1"\n'


@pytest.mark.parametrize("option", [*OPTIONS, "--report"])
def test_nothing_is_written_into_the_folder_of_the_model(run, new, no_model, line_7, option):
    names = ["line-7/config.json", "line-7/x"] if option != "--report" else ["line-7", "line-7/new"]
    for name in names:
        code, _, err = run("inspect", "new", "--model", "line-7", option, name)
        assert code == 3
        assert "lies in the folder of a model" in err
    assert sorted(path.name for path in line_7.iterdir()) == ["config.json", "manifest.json"]


@pytest.mark.parametrize("name", ["line-7", "line-7/new", "link"])
@pytest.mark.parametrize(
    "words",
    [
        ["batch", "new", "--out"],
        ["audit", "new", "--authentic", "sound", "--report"],
        ["verify-model", "line-7", "--make", "new", "--golden"],
    ],
)
def test_batch_audit_and_golden_sets_write_nothing_into_it_either(run, new, no_model, line_7, words, name):
    (line_7.parent / "link").symlink_to("line-7")
    code, _, err = run(*words, name)
    assert code == 3
    assert f"{words[-1]} {name}" in err
    assert "lies in the folder of a model" in err
    assert sorted(path.name for path in line_7.iterdir()) == ["config.json", "manifest.json"]


@pytest.mark.parametrize(
    "words",
    [
        ["enroll", "new", "--authentic", "sound", "--out", "line-7/new"],
        ["export", "another", "--out", "line-7/new"],
        ["keys", "new", "line-7/new"],
        ["sign", "new", "--key", "lab.key", "--out", "line-7/new"],
    ],
)
def test_no_model_key_or_signature_is_saved_into_the_folder_of_a_model(run, new, no_model, line_7, words):
    run("keys", "new", "lab.key")
    code, _, err = run(*words)
    assert code == 3
    assert "line-7/new: lies in the folder of a model" in err
    assert sorted(path.name for path in line_7.iterdir()) == ["config.json", "manifest.json"]


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "o", "--junit", "./o"],
        ["--sarif", "o", "--markdown", "o"],
        ["--record", "o", "--json", "o.head"],
        ["--report", "D", "--markdown", "D/index.html"],
    ],
)
def test_two_outputs_are_not_one_file(run, new, no_model, tmp_path, words):
    code, _, err = run("inspect", "new", *words)
    assert code == 3
    assert "is also written by --" in err
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize(
    "words",
    [["--csv", "D", "--report", "D"], ["--json", "D/o", "--junit", "D"], ["--csv", "D", "--report", "new/../D"]],
)
def test_no_output_is_the_folder_of_another(run, new, no_model, tmp_path, words):
    code, _, err = run("inspect", "new", *words)
    assert code == 3
    assert "would be a file and the folder of another at once" in err
    assert not (tmp_path / "D").exists()


@pytest.mark.parametrize("option", [*OPTIONS, "--report"])
def test_a_file_where_a_folder_would_have_to_be_is_told_before_the_model_is_loaded(
    run, new, no_model, tmp_path, option
):
    (tmp_path / "o.md").write_text("mine")
    code, out, err = run("inspect", "new", option, "o.md/deep/x")
    assert (code, out) == (3, "")
    assert f"{option} o.md/deep/x" in err
    assert "o.md is not a folder; check the path" in err
    assert (tmp_path / "o.md").read_text() == "mine"


def test_enroll_export_and_audit_look_first_too(run, new, tmp_path):
    (tmp_path / "file").write_text("mine")
    for words in (
        ["enroll", "nothing", "--authentic", "sound", "--out", "file/x"],
        ["export", "no-such-model", "--out", "file/x"],
        ["audit", "new", "--authentic", "sound", "--report", "file/x"],
    ):
        code, out, err = run(*words)
        assert (code, out) == (3, "")
        assert "file is not a folder; check the path" in err


@pytest.mark.parametrize("out", ["refs", "refs/sound", ".", "refs/sound/deep", "link"])
@pytest.mark.parametrize(
    "words", [["enroll", "refs", "--authentic", "sound"], ["export", "no", "--references", "refs"]]
)
def test_a_model_is_not_saved_over_the_references(run, new, tmp_path, words, out):
    (tmp_path / "refs").mkdir()
    new.rename(tmp_path / "refs" / "sound")
    (tmp_path / "link").symlink_to("refs")
    if out == ".":
        out = str(tmp_path)
    code, said, err = run(*words, "--out", out)
    assert (code, said) == (3, "")
    assert f"--out {out}: is, contains or lies in refs, which is read; choose a folder apart from it" in err
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tif", "b.tif", "link", "refs", "sound"]


def test_export_takes_no_folder_that_holds_something_else(run, new):
    code, out, err = run("export", "no-such-model", "--out", "new")
    assert (code, out) == (3, "")
    assert "new: holds something that is not a checkpoint" in err


def test_a_folder_is_no_file_and_a_file_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(typer.BadParameter, match="is a folder, but must be a file"):
        expect_writable(Output("--json", tmp_path, in_place=True))
    with pytest.raises(typer.BadParameter, match="is a file, but must be a folder"):
        expect_folder("--out", tmp_path / "file")
    expect_writable(Output("--json", tmp_path / "file", in_place=True))
    expect_folder("--out", tmp_path / "new" / "folder")
    expect_folder("--out", tmp_path)


@pytest.mark.parametrize("in_place", [False, True])
def test_what_may_not_be_written_to_is_refused(tmp_path, monkeypatch, in_place):
    (tmp_path / "file").write_text("mine")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "access", lambda *_: False)  # root may do everything
    monkeypatch.setattr("tempfile.TemporaryFile", denied)
    for name in ("file", "new"):
        with pytest.raises(typer.BadParameter, match=r"(is not writable|cannot be written to); check its permissions"):
            expect_writable(Output("--json", tmp_path / name, in_place))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="the system has no folder that takes no files from root")
@pytest.mark.parametrize(
    "words",
    [
        ["enroll", "refs", "--authentic", "sound", "--out", "/proc/x"],
        ["export", "no-such-model", "--out", "/proc/x"],
        ["demo", "--out", "/proc/x"],
        ["pretrain", "--recipe", "smoke", "--out", "/proc/x"],
        ["verify-model", "no-such-model", "--golden", "/proc/x", "--make", "new"],
        ["sign", "new", "--key", "k", "--out", "/proc/x"],
        ["audit", "new", "--authentic", "sound", "--report", "/proc/x"],
    ],
    ids=lambda words: words[0],
)
def test_a_folder_where_nothing_can_be_made_is_found_before_the_work_whatever_its_permissions(run, new, words):
    code, out, err = run(*words)
    assert (code, out) == (3, "")
    assert "the folder /proc cannot be written to;" in err


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="the system has no devices among its files")
def test_a_device_is_written_to_and_never_replaced(tmp_path):
    null = Path("/dev/null")
    check_outputs([Output("--json", null, in_place=True), Output("--record", null, in_place=True)], [])
    with pytest.raises(typer.BadParameter, match="a device or a pipe"):
        check_outputs([Output("--junit", null)], [])


def test_the_verdicts_are_printed_even_where_the_pages_cannot_be_written(run, new, tmp_path, monkeypatch):
    def full(file, _):
        raise OSError(errno.ENOSPC, "No space left on device", str(file))

    def large(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: 8 GB")

    monkeypatch.setattr("fusion_diff.inspection.files.write_text", full)
    monkeypatch.setattr("fusion_diff.inspection.report.write_report", large)
    pages = ("--junit", "j.xml", "--sarif", "s.sarif", "--markdown", "m.md", "--report", "D")
    code, out, err = run("inspect", "new", *pages)
    assert code == 3
    assert "2 micrographs: 2 authentic" in out
    assert "SARIF: s.sarif" in out
    assert "JUnit" not in out
    assert [line.partition(" (")[0] for line in err.splitlines()] == [
        "Error: j.xml: cannot be used",
        "Error: m.md: cannot be used",
        "Error: not enough memory; close other programs, or use fewer or smaller micrographs",
    ]
    (invocation,) = json.loads((tmp_path / "s.sarif").read_text(encoding="utf-8"))["runs"][0]["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3), "the exit code of the run"


def test_a_report_replaces_a_report_and_no_other_page(run, new, tmp_path):
    assert run("inspect", "new", "--report", "D")[0] == 0
    assert run("inspect", "new", "--report", "D")[0] == 0
    page = tmp_path / "D" / "index.html"
    page.write_text("<!doctype html><title>Our laboratory</title>", encoding="utf-8")
    code, _, err = run("inspect", "new", "--report", "D")
    assert code == 3
    assert "--report D/index.html: is a page of another program" in " ".join(err.replace("│", " ").split())
    assert "Our laboratory" in page.read_text(encoding="utf-8")


def test_the_report_holds_its_records_wherever_else_they_go(run, new, tmp_path):
    code, out, _ = run("inspect", "new", "--report", "D", "--json", "F")
    assert code == 0
    assert "Records: F" in out
    assert (tmp_path / "D" / "inspections.jsonl").read_bytes() == (tmp_path / "F").read_bytes()
    assert run("inspect", "new", "--report", "D", "--json", "D/../D/inspections.jsonl")[0] == 0
    lines = (tmp_path / "D" / "inspections.jsonl").read_text().splitlines()
    assert [json.loads(line)["decision"] for line in lines] == ["authentic", "authentic"]


@pytest.fixture
def stopped_at_b(darkness_model, monkeypatch):
    """Ctrl-C comes while the second micrograph is inspected."""
    inspect = darkness_model.inspect

    def stopped(micrograph, *, alpha):
        if micrograph.name.endswith("b.tif"):
            raise KeyboardInterrupt
        return inspect(micrograph, alpha=alpha)

    monkeypatch.setattr(darkness_model, "inspect", stopped)


def test_what_was_inspected_before_a_stop_is_kept_and_said(run, new, stopped_at_b, tmp_path):
    code, out, err = run("inspect", "new", "--json", "F", "--record", "L")
    assert (code, out) == (130, "")
    assert err == "Inspected 1 of 2 micrographs; their verdicts are saved in F and L\nStopped.\n"
    assert len((tmp_path / "F").read_text().splitlines()) == 1
    assert run("inspect", "new")[2] == "Inspected 1 of 2 micrographs; no verdict was saved\nStopped.\n"


def test_records_go_to_stdout_alone_and_the_table_to_stderr(run, new, tmp_path):
    code, out, err = run("inspect", "new", "--json", "-", "--report", "D")
    assert code == 0
    assert [json.loads(line)["path"] for line in out.splitlines()] == ["new/a.tif", "new/b.tif"]
    assert "2 micrographs: 2 authentic" in err
    assert "Report: D/index.html" in err
    assert (tmp_path / "D" / "inspections.jsonl").read_text() == out
    assert not (tmp_path / "-").exists()
    assert run("inspect", "new")[1].count("authentic") > 1, "later commands print as before"


@pytest.mark.parametrize("option", OPTIONS[1:])
def test_stdout_is_for_records_alone(run, new, no_model, tmp_path, option):
    code, out, err = run("inspect", "new", option, "-")
    assert (code, out) == (3, "")
    assert f"{option} -: is stdout" in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "-").exists()


def test_records_on_stdout_are_kept_there_after_a_stop(run, new, stopped_at_b):
    code, out, err = run("inspect", "new", "--json", "-")
    assert (code, len(out.splitlines())) == (130, 1)
    assert "their verdicts are saved in stdout" in err


def test_a_stop_leaves_a_report_of_what_is_done_that_says_so(run, new, stopped_at_b, tmp_path):
    code, _, err = run("inspect", "new", "--report", "D", "--junit", "j.xml")
    assert code == 130
    assert "Report on these: D/index.html; no other page was written" in err
    page = (tmp_path / "D" / "index.html").read_text(encoding="utf-8")
    assert "stopped after 1 of 2 micrographs" in page
    assert "new/a.tif" in page
    assert "new/b.tif" not in page
    assert not (tmp_path / "j.xml").exists(), "half of a lot would look like a lot that passed"


PAGES = {"--junit": "j.xml", "--sarif": "s.sarif", "--markdown": "m.md", "--csv": "c.csv", "--report": "D"}
PAGE_FILES = ["j.xml", "s.sarif", "m.md", "c.csv", "D/index.html"]


def pages_written(tmp_path):
    return [name for name in PAGE_FILES if (tmp_path / name).exists()]


@pytest.fixture
def pages_of_a_run_that_passed(run, new, tmp_path):
    words = [word for pair in PAGES.items() for word in pair]
    assert run("inspect", "new", *words)[0] == 0
    assert pages_written(tmp_path) == PAGE_FILES
    return words


@pytest.mark.parametrize("ends", [ZeroDivisionError, CheckpointError, KeyboardInterrupt])
def test_the_pages_of_an_earlier_run_do_not_pass_for_those_of_one_that_did_not_start(
    run, tmp_path, monkeypatch, pages_of_a_run_that_passed, ends
):
    def load(*_):
        raise ends

    monkeypatch.setattr("fusion_diff.inspection.run.load_inspector", load)
    assert run("inspect", "new", *pages_of_a_run_that_passed)[0] in (3, 130)
    assert pages_written(tmp_path) == []


@pytest.mark.parametrize("option", ["--csv", "--junit", "--markdown", "--sarif"])
def test_an_input_is_not_removed_because_another_is_missing(run, new, tmp_path, option):
    (new / "a.tif").rename(tmp_path / "scan")  # known as an image by its content alone
    code, _, err = run("inspect", "scan", "nowhere\0.tif", "nowhere.tif", option, "scan")
    assert code == 3
    assert f"{option} scan: is one of the inputs" in err
    assert (tmp_path / "scan").exists()


def test_the_pages_of_ci_tell_of_files_that_were_skipped(run, new, tmp_path):
    (new / "c.dm3").write_bytes(b"x")
    code, _, err = run("inspect", "new", "--markdown", "m.md", "--junit", "j.xml", "--sarif", "s.sarif")
    assert code == 0
    told = "new: skipped 1 file of unsupported formats"
    assert told in err
    assert f"Note: <code>{told}" in html.unescape((tmp_path / "m.md").read_text())
    assert f"<system-err>{told}" in (tmp_path / "j.xml").read_text()
    assert told in (tmp_path / "s.sarif").read_text()


def test_nothing_to_inspect_leaves_no_page_of_an_earlier_run(run, new, tmp_path, pages_of_a_run_that_passed):
    for file in new.iterdir():
        file.unlink()
    code, _, err = run("inspect", "new", *pages_of_a_run_that_passed)
    assert code == 3
    assert "the folder holds no images" in err
    assert pages_written(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_no_verdict_is_shown_that_the_ledger_lacks(run, new, tmp_path):
    code, out, _ = run("inspect", "new", "--json", "/dev/full", "--record", "L")
    assert code == 3
    assert "1 micrograph: 1 authentic" in out
    assert len((tmp_path / "L").read_text().splitlines()) == 2, "the header and the verdict that is shown"


def test_a_refused_call_removes_no_page(run, tmp_path, pages_of_a_run_that_passed):
    words = [*pages_of_a_run_that_passed, "--record", "j.xml"]
    assert run("inspect", "new", *words)[0] == 3
    assert pages_written(tmp_path) == PAGE_FILES


@pytest.mark.parametrize("policy", [True, False])
def test_a_fault_of_the_program_loses_no_verdict_and_nothing_looks_like_a_pass(
    run, new, tmp_path, monkeypatch, darkness_model, pages_of_a_run_that_passed, policy
):
    inspect = darkness_model.inspect

    def faulty(micrograph, *, alpha):
        if micrograph.name.endswith("b.tif"):
            raise ZeroDivisionError("of the program")
        return inspect(micrograph, alpha=alpha)

    monkeypatch.setattr(darkness_model, "inspect", faulty)
    (tmp_path / "p.toml").write_text('format = "fusion-diff/policy/1"\n')
    words = [*pages_of_a_run_that_passed, "--json", "F", "--record", "L", *(["--policy", "p.toml"] if policy else [])]
    code, out, err = run("inspect", "new", *words)
    assert code == 3
    assert "1 micrograph: 1 authentic" in out
    assert all(said in out for said in ("Records: F", "Ledger: L", "JUnit: j.xml", "SARIF: s.sarif", "Report: D"))
    assert "Error: 1 micrograph was not inspected: the run broke off" in err
    assert "Traceback" in err
    assert "ZeroDivisionError: of the program\nwhile inspecting new/b.tif" in err
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")
    assert "new/b.tif: it was not inspected, as the run broke off: of the program" in (
        tmp_path / "D" / "index.html"
    ).read_text(encoding="utf-8")
    (log,) = json.loads((tmp_path / "s.sarif").read_text(encoding="utf-8"))["runs"]
    (invocation,) = log["invocations"]
    assert (invocation["executionSuccessful"], invocation["exitCode"]) == (False, 3)
    assert [each["ruleId"] for each in log["results"]] == ["could-not-inspect"]
    assert (tmp_path / "m.md").read_text(encoding="utf-8").startswith("### ✗ FusionDiff: 1 error, 1 pass")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no disk that is always full")
def test_a_full_disk_loses_no_verdict(run, new, tmp_path, pages_of_a_run_that_passed):
    code, out, err = run("inspect", "new", *pages_of_a_run_that_passed, "--json", "/dev/full")
    assert code == 3
    assert "1 micrograph: 1 authentic" in out
    assert err.count("No space left on device") == 1
    assert "Error: /dev/full: cannot be used (No space left on device)" in err
    assert "Traceback" not in err
    assert "Records:" not in out, "none was written"
    suite = ElementTree.parse(tmp_path / "j.xml").getroot()
    assert (suite.get("tests"), suite.get("errors")) == ("2", "1")


def test_a_fault_in_one_page_loses_no_other_and_is_shown(run, tmp_path, monkeypatch, pages_of_a_run_that_passed):
    def faulty(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr("fusion_diff.inspection.junit.to_junit", faulty)
    code, out, err = run("inspect", "new", *pages_of_a_run_that_passed)
    assert code == 3
    assert "2 micrographs: 2 authentic" in out
    assert "ZeroDivisionError" in err
    assert pages_written(tmp_path) == PAGE_FILES[1:]


def test_an_exported_model_is_not_replaced_by_an_enrolled_one(run, tmp_path, line_7):
    (line_7 / "edge.json").write_text("{}")
    (line_7 / "manifest.json").write_text(
        '{"format": "fusion-diff/checkpoint/1", "sha256": {"config.json": "", "edge.json": ""}}'
    )
    code, _, err = run("enroll", "refs", "--authentic", "sound", "--out", "line-7")
    assert (code, err) == (3, "Error: line-7: contains an exported model; choose another folder\n")


@pytest.mark.parametrize("words", [["enroll", "refs", "--authentic", "sound"], ["export", "line-7"]])
def test_a_file_in_place_of_the_folder_of_a_model_is_told_to_be_one(run, tmp_path, words):
    (tmp_path / "o").write_text("")
    code, _, err = run(*words, "--out", "o")
    assert code == 3
    assert "--out o: is a file, but must be a folder; choose a new one" in err


@pytest.mark.parametrize("name", ["lot.xlsx", "lot.XLS", "lot.ods"])
def test_a_table_in_csv_is_not_named_as_another_kind(run, new, no_model, tmp_path, name):
    code, _, err = run("inspect", "new", "--csv", name)
    assert code == 3
    assert f"--csv {name}: spreadsheets take a table in CSV for damaged under this name; name it lot.csv" in err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("option", ["--alpha", "--pixel-size"])
def test_a_comma_in_a_number_is_told_with_the_way_to_write_it(run, new, no_model, option):
    code, _, err = run("inspect", "new", option, "0,1")
    assert code == 3
    ours = f"Invalid value for '{option}': it is no number; write it like 0.1"
    assert ours in err or "is not a valid float" in err, "what older versions of typer say names the value"
