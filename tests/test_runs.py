import errno
import fcntl
import os
from dataclasses import replace

import pytest

from cal_bench.errors import UserError
from cal_bench.records import Answer, Identity
from cal_bench.runs import SYNC_SECONDS, Run, read_results, read_run, versions, write_atomically
from tests.test_records import QUESTIONS, RESULT

IDENTITY = Identity("models/a", "weights-of-a", "processor-of-a", "float32")


def opened(tmp_path, identity=IDENTITY, config=None):
    return Run.open(tmp_path / "run", identity, config)


def with_answers(tmp_path, *numbers):
    run = opened(tmp_path)
    run.begin("toy", QUESTIONS)
    with run.appending("toy") as append:
        for number in numbers:
            append(Answer(number, "p", f"answer {number}", 0.5))
    return run


def test_answers_come_back(tmp_path):
    with_answers(tmp_path, 3, 7)
    again = opened(tmp_path)
    assert again.answered("toy") == {3: Answer(3, "p", "answer 3", 0.5), 7: Answer(7, "p", "answer 7", 0.5)}
    assert again.answered("other") == {}


def test_an_answer_is_on_the_disk_before_the_next_one_comes(tmp_path):
    run = opened(tmp_path)
    run.begin("toy", QUESTIONS)
    with run.appending("toy") as append:
        append(Answer(1, "p", "x", 0.5))
        assert list(opened(tmp_path).answered("toy")) == [1]


def test_answers_reach_the_disk_itself_every_few_seconds_and_at_the_end(tmp_path, monkeypatch):
    run = opened(tmp_path)
    run.begin("toy", QUESTIONS)
    synced, clock = [], [0.0]
    monkeypatch.setattr("cal_bench.runs.os.fsync", synced.append)
    monkeypatch.setattr("cal_bench.runs.time.monotonic", lambda: clock[0])
    with run.appending("toy") as append:
        counts = []
        for number in range(6):
            clock[0] += SYNC_SECONDS / 2
            append(Answer(number, "p", "x", 0.5))
            counts.append(len(synced))
        assert counts == [0, 1, 1, 2, 2, 3]
    assert len(synced) == 4


@pytest.mark.parametrize("lost", range(1, 30, 4))
def test_a_torn_last_line_is_dropped_and_written_over(tmp_path, lost):
    run = with_answers(tmp_path, 3, 7)
    path = tmp_path / "run" / "toy.jsonl"
    path.write_bytes(path.read_bytes()[:-lost])
    assert list(run.answered("toy")) == [3]
    with run.appending("toy") as append:
        append(Answer(8, "p", "new", 0.5))
    assert list(run.answered("toy")) == [3, 8]


def test_a_broken_line_that_is_not_the_last_is_a_message(tmp_path):
    run = with_answers(tmp_path, 3)
    path = tmp_path / "run" / "toy.jsonl"
    path.write_bytes(b"rubbish\n" + path.read_bytes())
    with pytest.raises(UserError, match=r"Line 1 of .*toy\.jsonl is not an answer"):
        run.answered("toy")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "weights-of-b"}, "other weights: weights-of-a .* this model has weights-of-b"),
        ({"processor": "new"}, "another processor, chat template or settings"),
        ({"dtype": "bfloat16"}, "another precision: float32 .* this model has bfloat16"),
    ],
)
def test_another_identity_is_refused(tmp_path, change, words):
    opened(tmp_path)
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(UserError, match=words):
        opened(tmp_path, replace(IDENTITY, **change))
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_the_same_weights_may_lie_elsewhere(tmp_path):
    opened(tmp_path)
    opened(tmp_path, replace(IDENTITY, model="moved"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"limit": 20, "samples": 20}, "were given with no limit, this command has a limit of 20"),
        ({"samples": 9}, "are to 2 samples, the benchmark now has 9"),
        ({"data": "d2"}, r"other data \(d1, now d2\)"),
        ({"prompts": "p2"}, r"other prompts \(p1, now p2\)"),
        ({"generation": ("32 tokens, until []",)}, r"other generation settings \(16 tokens, until \[\], now 32 tokens"),
    ],
)
def test_other_questions_are_refused_and_the_difference_is_named(tmp_path, change, words):
    run = with_answers(tmp_path, 3)
    with pytest.raises(UserError, match=words) as refusal:
        run.begin("toy", replace(QUESTIONS, **change))
    assert f"delete {tmp_path / 'run' / 'toy.jsonl'} to answer toy again" in str(refusal.value)


def test_deleting_the_answers_makes_room_for_other_questions(tmp_path):
    run = with_answers(tmp_path, 3)
    (tmp_path / "run" / "toy.jsonl").unlink()
    run.begin("toy", replace(QUESTIONS, data="d2"))
    assert read_run(tmp_path / "run").benchmarks["toy"].questions.data == "d2"


def test_a_summary_makes_a_benchmark_complete(tmp_path):
    run = with_answers(tmp_path, 3, 7)
    assert run.result("toy") is None
    assert read_results(tmp_path / "run") == {}
    run.finish(RESULT)
    assert run.result("toy") == RESULT
    assert read_results(tmp_path / "run") == {"toy": RESULT}
    assert read_run(tmp_path / "run").benchmarks["toy"].complete


def test_unanswered_samples_are_recorded_in_order(tmp_path):
    run = with_answers(tmp_path, 3)
    run.leave_open("toy", {9: "torn", 7: "missing"})
    entry = read_run(tmp_path / "run").benchmarks["toy"]
    assert list(entry.unanswered.items()) == [(7, "missing"), (9, "torn")]
    assert not entry.complete


def test_the_record_names_versions_and_config(tmp_path):
    opened(tmp_path, config={"batch_size": 4})
    record = read_run(tmp_path / "run")
    assert record.config == {"batch_size": 4}
    assert record.versions == versions()
    assert {"python", "torch", "transformers", "lmms-eval", "cal-bench"} <= set(record.versions)


def test_every_version_that_worked_on_a_run_is_kept(tmp_path, monkeypatch):
    for version in ("1.0", "2.0", "2.0", "1.0"):
        monkeypatch.setattr("cal_bench.runs.versions", lambda version=version: {"torch": version})
        opened(tmp_path)
    assert read_run(tmp_path / "run").versions == {"torch": "1.0, 2.0"}


def test_opening_again_leaves_the_record_as_it_was(tmp_path):
    with_answers(tmp_path, 3)
    before = (tmp_path / "run" / "run.json").read_bytes()
    opened(tmp_path)
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_what_is_not_a_run_folder_is_a_message(tmp_path):
    with pytest.raises(UserError, match="not a run folder"):
        read_run(tmp_path)
    with pytest.raises(UserError, match="not a run folder"):
        read_results(tmp_path / "nowhere")
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match="not a run record"):
        read_run(tmp_path)


def test_answers_of_nobody_knows_whom_are_refused(tmp_path):
    with_answers(tmp_path, 3)
    (tmp_path / "run" / "run.json").unlink()
    with pytest.raises(UserError, match=r"holds answers but no run\.json"):
        opened(tmp_path)


def test_two_commands_cannot_write_one_benchmark(tmp_path):
    run = with_answers(tmp_path, 3)
    with run.appending("toy"), pytest.raises(UserError, match="Another command is adding"), opened(tmp_path).appending("toy"):
        pass


def test_a_file_that_was_replaced_while_it_was_opened_is_not_written(tmp_path, monkeypatch):
    run = with_answers(tmp_path, 3)
    take = fcntl.flock

    def replaced(file, kind):
        take(file, kind)
        write_atomically(run.folder / "toy.jsonl", "")

    monkeypatch.setattr(fcntl, "flock", replaced)
    with pytest.raises(UserError, match="Another command is adding"), run.appending("toy"):
        pass


def test_two_commands_may_work_at_two_benchmarks_of_one_folder(tmp_path):
    one, other = opened(tmp_path), opened(tmp_path)
    one.begin("toy", QUESTIONS)
    other.begin("game", QUESTIONS)
    for run, name in ((one, "toy"), (other, "game")):
        with run.appending(name) as append:
            append(Answer(3, "p", "x", 0.5))
    other.finish(replace(RESULT, benchmark="game"))
    one.finish(RESULT)
    assert list(read_results(tmp_path / "run")) == ["toy", "game"]
    with pytest.raises(UserError, match="were given with no limit, this command has a limit of 100"):
        opened(tmp_path).begin("game", replace(QUESTIONS, limit=100))


def test_answers_that_the_record_does_not_name_are_refused(tmp_path):
    with_answers(tmp_path, 3)
    (tmp_path / "run" / "game.jsonl").write_text("")
    with pytest.raises(UserError, match=r"holds answers to game that are not in its run\.json"):
        opened(tmp_path).begin("game", QUESTIONS)


def full_disk_after(budget, monkeypatch):
    """os.write as on a disk with `budget` bytes left: a short write, then ENOSPC."""
    write, left = os.write, [budget]

    def limited(file, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = write(file, data[: left[0]])
        left[0] -= count
        return count

    monkeypatch.setattr("cal_bench.runs.os.write", limited)


def test_a_full_disk_is_a_message_and_loses_nothing(tmp_path, monkeypatch):
    run = opened(tmp_path)
    run.begin("toy", QUESTIONS)
    full_disk_after(100, monkeypatch)
    with run.appending("toy") as append:
        append(Answer(1, "p", "x", 0.5))
        with pytest.raises(UserError, match="the disk is full"):
            append(Answer(2, "p", "y" * 100, 0.5))
    assert list(opened(tmp_path).answered("toy")) == [1]


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cal_bench.runs.os.fsync", full)
    with pytest.raises(UserError, match="Free some space and give the same command again"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_a_folder_that_cannot_be_made_is_a_message(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(UserError, match="Cannot write"):
        opened(tmp_path)


def test_the_folder_of_a_study_is_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("name: mine\n")
    with pytest.raises(UserError, match="is the folder of a study"):
        opened(tmp_path)
    assert [file.name for file in (tmp_path / "run").iterdir()] == ["config.yaml"]
