"""Ledgers written by real processes, and damaged in known and random ways."""

from __future__ import annotations

import errno
import json
import os
import shlex
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusion_diff.errors import TrustError
from fusion_diff.inspection.ledger_entry import verdict
from fusion_diff.inspection.run import Outcome
from fusion_diff.trust import ledger as module
from fusion_diff.trust.ledger import MAX_LINE_BYTES, Ledger, canonical, chained, parse, repair
from fusion_diff.trust.ledger_check import MAX_BREAKS, check


@pytest.fixture
def file(tmp_path):
    """A ledger of a header and eight verdicts."""
    path = tmp_path / "verdicts.jsonl"
    with Ledger(path) as ledger:
        for index in range(8):
            ledger.append({"file": f"{index}.tif", "decision": "authentic", "score": index / 8})
    return path


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def damage(path, change):
    path.write_bytes(b"".join(change(lines(path))))


def found(path, **options):
    return [(each.kind, each.line) for each in check(path, **options).breaks]


def forged(line, **changes):
    return canonical(chained(json.loads(line) | changes)) + b"\n"


def test_a_ledger_that_nobody_touched_is_intact(file):
    report = check(file)
    assert report.intact
    assert report.breaks == ()
    assert (report.lines, report.decisions) == (9, {"authentic": 8})
    assert len(report.id) == 32
    assert report.head == json.loads(lines(file)[-1])["hash"]
    assert report.note == ""


def test_each_line_names_the_one_before_it(file):
    records = [json.loads(line) for line in lines(file)]
    assert [record["sequence"] for record in records] == list(range(9))
    assert [record["previous"] for record in records[1:]] == [record["hash"] for record in records[:-1]]
    assert all(record["time"].endswith("Z") for record in records)


def test_an_existing_ledger_is_continued(file):
    with Ledger(file) as ledger:
        added = ledger.append({"file": "more.tif", "error": "unreadable"})
        assert ledger.head == added["hash"]
    assert added["sequence"] == 9
    report = check(file)
    assert report.intact
    assert report.decisions == {"authentic": 8, "error": 1}


def test_two_ledgers_have_different_ids(tmp_path):
    for name in ("a", "b"):
        Ledger(tmp_path / "new" / name).close()
    assert check(tmp_path / "new" / "a").id != check(tmp_path / "new" / "b").id


def replaced(number, change):
    """The damage that changes one line, counted from 1."""
    return lambda all_: [*all_[: number - 1], change(all_[number - 1]), *all_[number:]]


def inserted(line):
    """The damage that puts a line behind the fourth."""
    return lambda all_: [*all_[:4], line, *all_[4:]]


NO_LINES = (b"{}\n", b"nonsense\n", b"\n", b"\xff\x00\n", b"[" * 5000 + b"\n", b"7" * 5000 + b"\n")
TOO_LONG = b"x" * (3 * MAX_LINE_BYTES) + b"\n"
DAMAGES = {
    **{
        f"a word altered in line {number}": (
            replaced(number, lambda line: line.replace(b"authentic", b"authentik")),
            [("altered", number)],
        )
        for number in (2, 5, 9)
    },
    "spaces added to a line": (replaced(4, lambda line: line.replace(b":", b": ")), [("altered", 4)]),
    **{
        f"line {number} altered with a hash to match": (
            replaced(number, lambda line: forged(line, score=1, id="x")),
            [("altered", number)],
        )
        for number in (1, 4, 9)
    },
    "a line removed": (lambda all_: [all_[0], *all_[2:]], [("removed", 2)]),
    "three lines removed": (lambda all_: [*all_[:3], *all_[6:]], [("removed", 4)]),
    **{f"{line[:9]!r} inserted": (inserted(line), [("inserted", 5)]) for line in (*NO_LINES, TOO_LONG)},
    "a forged line that follows the one before it": (
        lambda all_: inserted(forged(all_[4], decision="not authentic"))(all_),
        [("inserted", 5)],
    ),
    "a copied line": (lambda all_: [*all_[:7], all_[2], *all_[7:]], [("inserted", 8)]),
    "exchanged lines": (lambda all_: [*all_[:3], all_[4], all_[3], *all_[5:]], [("reordered", 5)]),
    "a line moved to the end": (lambda all_: [*all_[:3], *all_[4:], all_[3]], [("reordered", 9)]),
    "lines cut off the end": (lambda all_: all_[:-2], [("truncated", 7)]),
    "several": (
        lambda all_: [all_[0], all_[1][:-9] + b"\n", all_[2], *all_[4:7], b"x\n", *all_[7:]],
        [("altered", 2), ("removed", 4), ("inserted", 7)],
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damage_is_found_where_it_is_and_named(file, name):
    change, breaks = DAMAGES[name]
    damage(file, change)
    assert found(file) == breaks


def test_a_forged_line_behind_the_last_is_found(file):
    damage(file, lambda all_: [*all_, forged(all_[-1], decision="not authentic")])
    assert found(file) == [("inserted", 10)]


def test_a_break_says_what_was_there(file):
    damage(file, lambda all_: [*all_[:3], all_[4], all_[3], *all_[5:-2]])
    reordered, truncated = check(file).breaks
    assert "before line 4" in reordered.message
    assert "2 cut off" in truncated.message


def test_a_head_that_is_missing_or_no_head_is_told(file):
    head = file.with_name(file.name + ".head")
    head.write_text("{}")
    assert found(file) == [("truncated", 9)]
    head.unlink()
    assert found(file) == [("truncated", 9)]
    assert check(file).note == "", "it is told once"
    with pytest.raises(TrustError, match="tampered"):
        Ledger(file)


def test_a_head_that_is_missing_is_made_up_for_by_one_noted_elsewhere(file):
    noted = check(file).head
    file.with_name(file.name + ".head").unlink()
    report = check(file, expect=noted)
    assert report.intact
    assert report.note == "verdicts.jsonl.head is missing; the expected head is that of the last line"
    earlier = json.loads(lines(file)[-2])["hash"]
    assert found(file, expect=earlier) == [("truncated", 9)], "what came after it may have been more"


@pytest.mark.parametrize("planted", ["pipe", "device", "large"])
def test_a_head_that_is_no_plain_file_is_told_rather_than_waited_for(file, planted):
    head = file.with_name(file.name + ".head")
    head.unlink()
    if planted == "pipe":
        os.mkfifo(head)
    elif planted == "device":
        head.symlink_to("/dev/null")  # /dev/zero would never end if it were read after all
    else:
        with head.open("wb") as stream:
            stream.truncate(MAX_LINE_BYTES + 1)
    report = check(file)
    assert [(each.kind, each.line) for each in report.breaks] == [("truncated", 9)]
    assert ("too large" if planted == "large" else "not a plain file") in report.breaks[0].message
    with pytest.raises(TrustError, match=r"verdicts\.jsonl\.head|/dev/"):
        Ledger(file)


def test_a_head_may_be_a_link(file, tmp_path):
    head = file.with_name(file.name + ".head")
    head.symlink_to(head.rename(tmp_path / "kept"))
    assert check(file).intact
    (tmp_path / "kept").unlink()
    assert found(file) == [("truncated", 9)]


def test_a_head_noted_elsewhere_tells_when_both_files_were_cut(file):
    noted = check(file).head
    assert found(file, expect=noted) == []
    with Ledger(file) as ledger:
        ledger.append({"file": "later.tif", "decision": "authentic"})
    assert found(file, expect=noted) == []
    damage(file, lambda all_: all_[:5])
    last = json.loads(lines(file)[-1])
    module.write_head(file, check(file).id, 5, last["hash"])
    assert found(file) == []
    assert found(file, expect=noted) == [("truncated", 5)]


def test_a_ledger_written_anew_is_told_by_the_head_noted_elsewhere(file, tmp_path):
    noted = check(file).head
    for each in (file, file.with_name(file.name + ".head")):
        each.unlink()
    with Ledger(file) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(file).intact
    assert not check(file, expect=noted).intact


def test_breaks_beyond_a_limit_are_counted_and_not_kept(file):
    damage(file, lambda all_: [*all_[:4], *[b"x\n"] * (MAX_BREAKS + 50), *all_[4:]])
    report = check(file)
    assert report.found == MAX_BREAKS + 50
    assert len(report.breaks) == MAX_BREAKS


def test_a_number_of_thousands_of_digits_is_a_break_and_no_crash(file):
    huge = b'"sequence":' + b"9" * 4300
    damage(file, lambda all_: [all_[0], all_[1].replace(b'"sequence":1', huge), *all_[2:]])
    assert huge in file.read_bytes()
    assert ("altered", 2) in found(file)


def test_a_line_too_long_is_not_written(file):
    before = file.read_bytes()
    with Ledger(file) as ledger, pytest.raises(TrustError, match="record less"):
        ledger.append({"error": "x" * MAX_LINE_BYTES})
    assert file.read_bytes() == before


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_last_line_is_told_and_set_aside(file, kept):
    last = lines(file)[-1]
    damage(file, lambda all_: all_[:-1])
    module.write_head(file, check(file).id, 8, json.loads(lines(file)[-1])["hash"])
    whole = file.read_bytes()
    with file.open("ab") as stream:
        stream.write(last[:kept])
    assert found(file) == [("torn", 9)]
    with pytest.raises(TrustError, match="--repair"):
        Ledger(file)
    aside = repair(file)
    assert aside == file.with_name(file.name + ".torn")
    assert aside.read_bytes() == last[:kept]
    assert file.read_bytes() == whole
    assert repair(file) is None
    with Ledger(file) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(file).intact


def test_what_was_set_aside_before_is_kept(file):
    for text in (b"first", b"second"):
        with file.open("ab") as stream:
            stream.write(text)
        repair(file)
    assert [p.read_bytes() for p in sorted(file.parent.glob("*.torn*"))] == [b"first", b"second"]


@pytest.mark.parametrize("content", [b"notes", b"notes\nof mine", b'{"format":"other/1"}\n{"a'])
def test_a_file_that_is_no_ledger_is_neither_added_to_nor_repaired(tmp_path, content):
    notes = tmp_path / "notes.txt"
    notes.write_bytes(content)
    for use in (Ledger, check, repair):
        with pytest.raises(TrustError, match=r"notes\.txt: it is not a ledger"):
            use(notes)
    assert notes.read_bytes() == content
    assert list(tmp_path.iterdir()) == [notes]


@pytest.mark.parametrize("kept", [1, 20, 60])
def test_a_ledger_of_a_torn_header_begins_anew_once_that_is_set_aside(file, kept):
    header = lines(file)[0][:kept]
    file.write_bytes(header)
    file.with_name(file.name + ".head").unlink()
    with pytest.raises(TrustError, match="--repair"):
        Ledger(file)
    assert repair(file).read_bytes() == header
    with Ledger(file) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(file).intact


def test_a_line_cut_after_it_was_whole_is_not_repaired(file):
    file.write_bytes(file.read_bytes()[:-5])
    before = file.read_bytes()
    assert {kind for kind, _ in found(file)} == {"torn", "truncated"}
    with pytest.raises(TrustError, match="nothing was repaired"):
        repair(file)
    assert file.read_bytes() == before


@pytest.mark.parametrize("whole", [3, 8])
def test_a_ledger_cut_in_the_middle_is_not_said_to_be_repairable(file, whole):
    all_ = lines(file)
    file.write_bytes(b"".join(all_[:whole]) + all_[whole][:30])
    torn, cut = check(file).breaks
    assert (torn.kind, cut.kind) == ("torn", "truncated")
    assert torn.message == f"line {whole + 1}: it was cut off after it was written; restore the ledger from a copy"
    assert f"{9 - whole} cut off" in cut.message
    with pytest.raises(TrustError, match="nothing was repaired or added, restore the ledger from a copy") as refused:
        Ledger(file)
    assert "--repair" not in str(refused.value)


def test_the_command_that_mends_a_ledger_can_be_copied_whatever_its_path(tmp_path):
    path = tmp_path / "of line 7" / "it's.jsonl"
    Ledger(path).close()
    with path.open("ab") as stream:
        stream.write(b"torn")
    (torn,) = check(path).breaks
    with pytest.raises(TrustError) as refused:
        Ledger(path)
    for said in (torn.message, str(refused.value)):
        assert shlex.split(said.split("with ")[1]) == ["fusion-diff", "audit", str(path), "--repair"]


def test_converted_line_ends_are_told_once_and_what_they_enclose_is_still_checked(file):
    damage(file, lambda all_: [line.replace(b"\n", b"\r\n") for line in all_])
    report = check(file)
    assert [(each.kind, each.line) for each in report.breaks] == [("altered", 1)]
    assert "converted to CR LF, as git and mail do, in 9 lines" in report.breaks[0].message
    assert "convert them back to LF" in report.breaks[0].message
    assert report.decisions == {"authentic": 8}
    with pytest.raises(TrustError, match=r"damaged .* audit"):
        Ledger(file)
    damage(file, lambda all_: [*all_[:3], all_[3].replace(b"authentic", b"authentik"), *all_[4:6], *all_[7:]])
    assert found(file) == [("altered", 1), ("altered", 4), ("removed", 7)]
    damage(file, lambda all_: [line.replace(b"\r\n", b"\n") for line in all_])
    assert found(file) == [("altered", 4), ("removed", 7)]


def test_of_a_ledger_with_every_line_altered_none_is_said_to_be_inserted(file):
    damage(file, lambda all_: [line.replace(b":", b": ") for line in all_])
    assert found(file) == [("altered", line) for line in range(1, 10)]


@pytest.mark.parametrize("use", [Ledger, check, repair])
def test_a_device_keeps_no_ledger(use):
    with pytest.raises(TrustError, match=f"{os.devnull}: it is a folder, device or pipe, .*; name a file"):
        use(os.devnull)


def test_lines_in_the_midst_of_gaps_are_told_without_ever_more_gaps(file):
    """Each line takes time by the number of gaps, and each line in a gap made another: minutes for a few megabytes."""
    far, between = 10**6, range(100, 100 + 3 * MAX_BREAKS, 2)
    damage(file, lambda all_: [*all_, *(forged(all_[-1], sequence=sequence) for sequence in (far, *between))])
    assert check(file).found == len(between) + MAX_BREAKS + 1  # the last is of the head


def test_a_run_killed_between_line_and_head_is_mended_by_the_next(file):
    module.write_head(file, check(file).id, 8, json.loads(lines(file)[-2])["hash"])
    report = check(file)
    assert report.intact
    assert "one line behind" in report.note
    with Ledger(file) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(file).note == ""


def test_two_lines_beyond_the_head_are_not_from_a_kill(file):
    module.write_head(file, check(file).id, 7, json.loads(lines(file)[-3])["hash"])
    assert found(file) == [("inserted", 8)]
    with pytest.raises(TrustError, match="tampered"):
        Ledger(file)


@pytest.mark.parametrize("text", [b"", b"{}\n", b"hello\nworld\n", b"\x00" * 100, b"\n"])
def test_a_file_that_is_no_ledger_is_refused_or_started(tmp_path, text):
    path = tmp_path / "other.jsonl"
    path.write_bytes(text)
    if text:
        with pytest.raises(TrustError):
            Ledger(path)
        assert path.read_bytes() == text
    else:
        with pytest.raises(TrustError, match="empty"):
            check(path)
        Ledger(path).close()
        assert check(path).intact


def test_an_emptied_ledger_is_not_started_over(file):
    file.write_bytes(b"")
    with pytest.raises(TrustError, match="restore"):
        Ledger(file)


def test_a_ledger_replaced_under_its_writer_is_told(file):
    with Ledger(file) as ledger:
        file.rename(file.with_suffix(".old"))
        with pytest.raises(TrustError, match="moved or replaced"):
            ledger.append({"decision": "authentic"})


def test_processes_that_write_at_once_make_one_chain(tmp_path):
    program = (
        "import sys; from fusion_diff.trust.ledger import Ledger\n"
        "with Ledger(sys.argv[1]) as ledger:\n"
        "    for i in range(20): ledger.append({'decision': 'authentic', 'writer': sys.argv[2], 'i': i})\n"
    )
    path = tmp_path / "shared.jsonl"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    running = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(index)], env=environment) for index in range(3)
    ]
    assert [process.wait() for process in running] == [0, 0, 0]
    report = check(path)
    assert report.intact, report.breaks
    assert report.lines == 61


def test_a_verdict_holds_what_an_auditor_asks_for(make_inspection, tmp_path):
    outcome = Outcome(Path("line-7/a\udcff.tif"), make_inspection())
    record = verdict(outcome, alpha=0.1, pixel_size_um=None)
    assert record["model"] == {"name": "line-7", "sha256": "ab" * 32, "references_sha256": "cd" * 32}
    assert record["file_sha256"] == "0f" * 32
    assert (record["decision"], record["score"], record["in_scope"]) == ("not authentic", 0.03125, True)
    assert record["p_values"] == {"authentic": 0.0625, "not authentic": 0.75}
    assert record["settings"] == {"alpha": 0.1, "pixel_size_um": None}
    with Ledger(tmp_path / "v.jsonl") as ledger:
        ledger.append(record)
    assert check(tmp_path / "v.jsonl").decisions == {"not authentic": 1}


def test_an_error_is_recorded_with_the_file_s_digest_and_the_model(tmp_path):
    (tmp_path / "broken.tif").write_bytes(b"nothing")
    model = {"name": "m", "sha256": "ab" * 32, "references_sha256": None}
    record = verdict(Outcome(tmp_path / "broken.tif", error="x" * 10**6), alpha=0.2, pixel_size_um=0.5, model=model)
    assert record["file_sha256"] == module.hashlib.sha256(b"nothing").hexdigest()
    assert record["model"] == model
    assert len(record["error"]) < 10_000
    gone = verdict(Outcome(tmp_path / "gone.tif", error="gone"), alpha=0.2, pixel_size_um=None)
    assert gone["file_sha256"] is None


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), plain, max_size=5))
def test_what_is_written_is_read_back_and_no_byte_can_change_unseen(record):
    whole = chained(record | {"sequence": 1, "previous": "0" * 64})
    line = canonical(whole)
    assert parse(line) == json.loads(line)
    assert line.isascii()
    for at in {0, len(line) // 2, len(line) - 1}:
        assert parse(line[:at] + bytes([line[at] ^ 1]) + line[at + 1 :]) is None


@given(st.binary(max_size=300))
def test_bytes_that_are_no_line_are_none(line):
    assert parse(line) is None


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_damage_is_found(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("ledger") / "v.jsonl"
    with Ledger(path) as ledger:
        for index in range(6):
            ledger.append({"decision": "authentic", "i": index})
    before = lines(path)
    order = data.draw(st.lists(st.integers(0, 6), max_size=9))
    after = [before[index] for index in order]
    path.write_bytes(b"".join(after))
    if after == before:
        assert check(path).intact
    elif not after:
        with pytest.raises(TrustError):
            check(path)
    else:
        assert not check(path).intact


def test_a_disk_too_full_for_the_head_leaves_the_ledger_as_it_was(file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    for _ in range(2):
        with monkeypatch.context() as patched, Ledger(file) as ledger:
            patched.setattr(module, "write_head", full)
            with pytest.raises(OSError, match="No space"):
                ledger.append({"decision": "authentic"})
    assert file.read_bytes() == before
    assert check(file).intact
    with Ledger(file) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(file).intact


def test_a_disk_that_fills_up_leaves_the_ledger_as_it_was_and_names_it(file, room_for):
    before = file.read_bytes()
    with Ledger(file) as ledger:
        with room_for(len(before) + 50), pytest.raises(OSError, match="File too large") as caught:
            ledger.append({"decision": "authentic"})
        assert caught.value.filename == str(file)
        assert file.read_bytes() == before
        ledger.append({"decision": "authentic"})
    assert check(file).intact


@pytest.mark.parametrize("found", [False, True])
def test_a_ledger_that_cannot_be_begun_leaves_no_empty_file(tmp_path, room_for, found):
    path = tmp_path / "verdicts.jsonl"
    if found:
        path.touch()
    with room_for(100), pytest.raises(OSError, match="File too large") as caught:
        Ledger(path)
    assert caught.value.filename == str(path)
    assert list(tmp_path.iterdir()) == ([path] if found else []), "what was there stays"


def test_a_ledger_of_which_the_head_is_left_is_missing_and_not_begun_anew(file):
    file.unlink()
    with pytest.raises(TrustError, match=r"the file is missing, but verdicts\.jsonl\.head lists lines"):
        Ledger(file)
    assert not file.exists()


@pytest.mark.parametrize("begun", [None, b"of another process\n"])
def test_a_ledger_that_another_removed_while_it_was_waited_for_is_not_begun(tmp_path, monkeypatch, begun):
    path = tmp_path / "verdicts.jsonl"
    lock = module.locked

    def removed(file):
        path.unlink()  # as by a process that could not write the header
        if begun:
            path.write_bytes(begun)  # by a third
        return lock(file)

    monkeypatch.setattr(module, "locked", removed)
    with pytest.raises(TrustError, match="moved or replaced"):
        Ledger(path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([begun] if begun else [])


def test_a_ledger_whose_beginning_is_interrupted_is_begun_or_gone_on_with(tmp_path, monkeypatch):
    path = tmp_path / "verdicts.jsonl"
    write = module.write_head

    def interrupted(*head):
        write(*head)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_head", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Ledger(path)
    with Ledger(path) as ledger:
        ledger.append({"decision": "authentic"})
    assert check(path).intact


def test_threads_that_share_a_ledger_do_not_write_into_one_another(tmp_path):
    refused, together = [], threading.Barrier(4)
    with Ledger(tmp_path / "shared.jsonl") as ledger:

        def add():
            together.wait()
            for _ in range(25):
                try:
                    ledger.append({"decision": "authentic"})
                except TrustError as error:
                    refused.append(error)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    report = check(tmp_path / "shared.jsonl")
    assert (refused, report.breaks, report.lines) == ([], (), 101)


def test_decisions_without_end_are_counted_as_one_kind(tmp_path):
    path = tmp_path / "hostile.jsonl"
    with Ledger(path) as ledger:
        for decision in ("authentic", "overruled", "error", *(f"hostile {index}" for index in range(50)), ["a"], None):
            ledger.append({"decision": decision})
    assert check(path).decisions == {"authentic": 1, "overruled": 1, "error": 1, "other": 52}
