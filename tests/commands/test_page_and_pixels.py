"""`--page` and `--max-pixels` of all commands that read micrographs, on real multi-page TIFFs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import pytest
import tifffile
import typer

from fusion_diff import DiffusionModel, cli
from fusion_diff.checkpoint import EMBEDDED, EMBEDDED_EDGE
from fusion_diff.micrograph import MAX_PIXELS
from fusion_diff.micrograph.ifd import MAX_PAGES
from fusion_diff.synthetic import builtin_references, builtin_samples

LEVELS = (0.8, 0.05, 0.3)
"""Mean level of each page: the darkness model calls them authentic, not authentic and inconclusive."""


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    """A TIFF of three pages of one size."""
    path = tmp_path / "in" / "stack.tif"
    path.parent.mkdir()
    rng = np.random.default_rng(0)
    with tifffile.TiffWriter(path) as tif:
        for level in LEVELS:
            pixels = rng.uniform(level - 0.02, level + 0.02, (64, 64))
            tif.write(np.rint(65535 * pixels).astype(np.uint16), contiguous=False)
    return path


@pytest.fixture
def vast(tmp_path: Path) -> Path:
    """A small TIFF whose header claims more pixels than the default limit."""
    path = tmp_path / "vast.tif"
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (64, 64)).astype(np.uint8), rowsperstrip=2**16)
    with tifffile.TiffFile(path, mode="r+") as tif:
        tags = tif.pages.first.tags
        tags["ImageWidth"].overwrite(2**15)
        tags["ImageLength"].overwrite(2**15 + 1)
    return path


def flat(text: str) -> str:
    """Text of a terminal without the frame of an error and its line breaks."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(("page", "code"), [(0, 0), (1, 1), (2, 2)])
def test_inspect_judges_the_page_that_was_asked_for(call_with_darkness, tmp_path, stack, page, code):
    records, ledger = tmp_path / "records.jsonl", tmp_path / "ledger.jsonl"
    words = ["inspect", stack, "--page", page, "--json", records, "--record", ledger]
    found, _, err = call_with_darkness(*words)
    assert (found, err) == (code, ""), "no warning that other pages may have been meant"
    assert json.loads(records.read_text("ascii"))["page"] == page
    entry = json.loads(ledger.read_text("utf-8").splitlines()[1])
    assert entry["settings"] == {"alpha": 0.1, "pixel_size_um": None, "page": page}
    assert call_with_darkness("audit", ledger)[0] == 0


def test_without_the_option_the_warning_names_it_and_nothing_is_recorded_of_it(call_with_darkness, tmp_path, stack):
    ledger = tmp_path / "ledger.jsonl"
    code, _, err = call_with_darkness("inspect", stack, "--record", ledger)
    assert code == 0
    assert "holds 3 images" in flat(err)
    assert "--page 0" in flat(err)
    assert json.loads(ledger.read_text("utf-8").splitlines()[1])["settings"] == {"alpha": 0.1, "pixel_size_um": None}


def test_a_page_that_is_not_there_is_the_error_of_that_file_alone(call_with_darkness, tmp_path, stack):
    records = tmp_path / "records.jsonl"
    tifffile.imwrite(stack.with_name("single.tif"), tifffile.imread(stack, key=0))
    code, _, _ = call_with_darkness("inspect", stack.parent, "--page", 2, "--json", records)
    assert code == 3
    single, whole = (json.loads(line) for line in records.read_text("ascii").splitlines())
    assert "single.tif" in single["error"]
    assert "no page 2" in single["error"]
    assert whole["decision"] == "inconclusive"
    call_with_darkness("inspect", stack, "--page", MAX_PAGES - 1, "--json", records)
    assert f"no page {MAX_PAGES - 1}" in json.loads(records.read_text("ascii"))["error"]


OPTIONS = {
    "inspect": [],
    "batch": ["--out", "out"],
    "certify": [],
    "enroll": ["--authentic", "sound", "--out", "out"],
    "audit": ["--authentic", "sound"],
    "export": ["--references", "refs", "--out", "out"],
    "validate": ["--authentic", "sound"],
    "verify-model": ["--make", "--golden", "out"],
}
"""Commands that read micrographs or references, and the options that they need."""


@pytest.mark.parametrize("command", OPTIONS)
@pytest.mark.parametrize(
    "words",
    [
        ["--page", "-1"],
        ["--page", str(MAX_PAGES)],
        ["--page", "one"],
        ["--max-pixels", "0"],
        ["--max-pixels", str(2**34 + 1)],
        ["--max-pixels", "1e9"],
    ],
)
def test_values_that_cannot_be_meant_are_errors_of_usage(
    call_with_darkness, tmp_path, monkeypatch, stack, command, words
):
    monkeypatch.chdir(tmp_path)
    code, printed, err = call_with_darkness(command, stack, *words, *OPTIONS[command])
    assert (code, printed) == (3, "")
    assert words[0] in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_every_command_that_takes_a_pixel_size_or_references_takes_a_page_and_a_limit():
    """Errors recommend the two options wherever a file is read."""
    commands = typer.main.get_command(cli.app).commands
    options = {name: {each for option in command.params for each in option.opts} for name, command in commands.items()}
    assert {name for name, has in options.items() if has >= {"--page", "--max-pixels"}} == set(OPTIONS)
    assert {name for name, has in options.items() if has & {"--pixel-size", "--references"}} <= set(OPTIONS)


def test_the_default_limit_is_the_one_that_help_names():
    options = {option.name: option for option in typer.main.get_command(cli.app).commands["inspect"].params}
    assert f"{MAX_PIXELS:,}" in options["max_pixels"].help
    assert options["max_pixels"].default is None


def test_a_lower_limit_refuses_what_is_larger_and_a_higher_one_lets_it_be_read(
    call_with_darkness, tmp_path, stack, vast
):
    records, ledger = tmp_path / "records.jsonl", tmp_path / "ledger.jsonl"

    def error(file: Path, *words: object) -> str:
        call_with_darkness("inspect", file, *words, "--json", records, "--record", ledger)
        return json.loads(records.read_text("ascii")).get("error", "")

    assert "more than the limit of 4,095" in error(stack, "--max-pixels", 64 * 64 - 1)
    assert error(stack, "--max-pixels", 64 * 64) == ""
    refused = error(vast)
    assert f"more than the limit of {MAX_PIXELS:,}" in refused
    assert "--max-pixels" in refused
    assert "truncated" in error(vast, "--max-pixels", 2**31), "past the limit, its pixels are found to be missing"
    settings = [json.loads(line)["settings"] for line in ledger.read_text("utf-8").splitlines()[1:]]
    assert [each.get("max_pixels") for each in settings] == [4095, 4096, None, 2**31]


def test_batch_reads_the_page_and_refuses_to_add_rows_of_another(call_with_darkness, tmp_path, stack):
    out = tmp_path / "out"
    assert call_with_darkness("batch", stack.parent, "--out", out, "--page", 1)[0] == 0
    table = parquet.read_table(out / "part-000001.parquet")
    (row,) = table.to_pylist()
    assert (row["page"], row["decision"]) == (1, "not authentic")
    run = json.loads(table.schema.metadata[b"fusion_diff.run"])
    assert (run["page"], run["max_pixels"]) == (1, None)
    for words, now in ((["--page", 2], "2"), ([], "None")):
        code, _, err = call_with_darkness("batch", stack.parent, "--out", out, *words)
        assert code == 3
        assert f"the page was 1 and is now {now}" in flat(err)
    assert call_with_darkness("batch", stack.parent, "--out", out, "--page", 1)[0] == 0


def test_a_batch_takes_up_what_was_too_large_with_a_higher_limit(call_with_darkness, tmp_path, stack):
    out = tmp_path / "out"
    assert call_with_darkness("batch", stack, "--out", out, "--max-pixels", 64 * 64 - 1)[0] == 0
    (row,) = parquet.read_table(out).to_pylist()
    assert "more than the limit of 4,095" in row["error"]
    assert call_with_darkness("batch", stack, "--out", out, "--retry", "--max-pixels", 64 * 64)[0] == 0
    (row,) = [row for part in sorted(out.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]
    assert (row["error"], row["decision"]) == (None, "authentic")


def test_certify_reads_the_page_within_the_limit(call_cli, tmp_path):
    drawn, labels = builtin_samples(1)
    path = tmp_path / "stack.tif"
    with tifffile.TiffWriter(path) as tif:
        for label in ("sound", "counterfeit"):
            pixels = drawn[labels.index(label)].pixels
            tif.write(np.rint(pixels * 65535).astype(np.uint16), contiguous=False)
    words = ["certify", path, "--sigma", "0.05", "--samples", "10", "--confidence", "0.9"]
    assert call_cli(*words, "--page", 1)[0] == 1
    assert call_cli(*words, "--page", 0)[0] != 1
    code, _, err = call_cli(*words, "--max-pixels", 64 * 64)
    assert code == 3
    assert "more than the limit of 4,096" in flat(err)


@pytest.fixture
def stacks(tmp_path: Path) -> Path:
    """References of two pages: the first is of procedural ceramics, the second of noise."""
    folder = tmp_path / "refs"
    drawn, labels = builtin_references(2, size=64)
    rng = np.random.default_rng(0)
    for index, (micrograph, label) in enumerate(zip(drawn, labels, strict=True)):
        path = folder / label / f"{label}_{index}.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tifffile.TiffWriter(path) as tif:
            for pixels in (micrograph.pixels, rng.uniform(0, 1, (64, 64))):
                tif.write(np.rint(pixels * 65535).astype(np.uint16), contiguous=False)
    return folder


def test_enroll_learns_from_the_page_that_was_asked_for_and_keeps_which_it_was(
    call_cli, narrow_folder, tmp_path, stacks
):
    found = {}
    for page in (0, 1, None):
        out = tmp_path / f"model-{page}"
        words = ["enroll", stacks, "--authentic", "sound", "--out", out, "--base", narrow_folder]
        code, _, err = call_cli(*words, *(() if page is None else ("--page", page)))
        assert code == 0
        assert ("--page 0" in flat(err)) == (page is None), "the warning names the option where it was not used"
        found[page] = json.loads((out / "enrolment.json").read_text("utf-8"))
        assert [each.get("page") for each in found[page]["references"]] == [page] * len(found[page]["references"])
    assert found[0]["references_sha256"] == found[None]["references_sha256"] != found[1]["references_sha256"]
    assert DiffusionModel.from_pretrained(tmp_path / "model-1").enrolment.pages == (1,) * 6


@pytest.mark.parametrize("command", ["enroll", "audit", "export"])
def test_references_above_the_limit_are_refused_by_name_with_the_option(call_cli, tmp_path, stacks, command):
    words = {
        "enroll": [stacks, "--authentic", "sound", "--out", tmp_path / "out"],
        "audit": [stacks, "--authentic", "sound"],
        "export": [EMBEDDED, "--references", stacks, "--out", tmp_path / "out"],
    }[command]
    code, _, err = call_cli(command, *words, "--page", 0, "--max-pixels", 64 * 64 - 1)
    assert code == 3
    assert "more than the limit of 4,095" in flat(err)
    assert "--max-pixels on the command line" in flat(err)
    code, _, err = call_cli(command, *words, "--page", 2)
    assert code == 3
    assert "no page 2" in flat(err)


def test_audit_reads_references_of_a_table_at_the_page_that_was_asked_for(call_cli, narrow_folder, tmp_path, stacks):
    """On the second page two references of different classes are the same picture."""
    table = tmp_path / "refs.csv"
    files = sorted(stacks.glob("*/*.tif"))
    table.write_text("\n".join(["file,label", *(f"{each},{each.parent.name}" for each in files)]), "utf-8")
    first, other = next(stacks.glob("sound/*.tif")), next(stacks.glob("crack/*.tif"))
    pages = [tifffile.imread(other, key=0), tifffile.imread(first, key=1)]
    with tifffile.TiffWriter(other) as tif:
        for pixels in pages:
            tif.write(pixels, contiguous=False)
    words = ["audit", table, "--authentic", "sound", "--model", narrow_folder]
    code, _, err = call_cli(*words, "--page", 0)
    assert code in (0, 1)
    assert "holds 2 images" not in flat(err)
    code, out, _ = call_cli(*words, "--page", 1)
    assert code == 1
    assert "duplicate" in flat(out)


def test_the_options_are_refused_where_no_reference_is_read(call_cli, tmp_path):
    ledger = tmp_path / "ledger.jsonl"
    for option in (["--page", 0], ["--max-pixels", 4096]):
        code, _, err = call_cli("audit", ledger, *option)
        assert code == 3
        assert "--page and --max-pixels apply to references" in flat(err)
        code, _, err = call_cli("export", EMBEDDED_EDGE, "--out", tmp_path / "out", *option)
        assert code == 3
        assert "--page and --max-pixels apply to --references" in flat(err)


def test_a_golden_set_is_scored_again_at_its_page_and_within_the_limit(
    call_cli, monkeypatch, darkness_model, tmp_path, stack
):
    monkeypatch.setattr("fusion_diff.commands.verify_model.load_model", lambda *_: darkness_model)
    golden = tmp_path / "golden"
    assert call_cli("verify-model", "m", stack, "--golden", golden, "--make", "--max-pixels", 64 * 64 - 1)[0] == 3
    assert call_cli("verify-model", "m", stack, "--golden", golden, "--make", "--page", 1)[0] == 0
    held = json.loads((golden / "golden.json").read_text("ascii"))
    assert (held["page"], held["images"][0]["decision"]) == (1, "not authentic")
    assert call_cli("verify-model", "m", "--golden", golden)[0] == 0
    code, _, err = call_cli("verify-model", "m", "--golden", golden, "--max-pixels", 64 * 64 - 1)
    assert code == 1
    assert "more than the limit of 4,095" in flat(err)
    code, _, err = call_cli("verify-model", "m", "--golden", golden, "--page", 1)
    assert code == 3
    assert "leave --page out" in flat(err)
    for page in (-1, True, "0", 1.0):
        (golden / "golden.json").write_text(json.dumps(held | {"page": page}), "ascii")
        assert call_cli("verify-model", "m", "--golden", golden)[0] == 3
