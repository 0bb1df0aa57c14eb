"""The page: what is in it, that nothing from data becomes markup, and what it does without data."""

import base64
import hashlib
import io
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cal_bench import cli
from cal_bench.evidence import read_details, write_details
from cal_bench.miniworld import WorldSizes, draw_world
from cal_bench.page.build import full_mark
from cal_bench.page.charts import Line, Mark, chart, forest, nice, points_of, reach
from cal_bench.page.data import REDRAWN, Place, ask
from cal_bench.page.origin import origin_of
from cal_bench.page.pictures import MOST_BYTES, SIDES, album, data_uri, picture_size
from cal_bench.page.rows import read_questions
from cal_bench.page.samples import select
from cal_bench.records import Answer, Identity, Makeup, Questions, TaskResult
from cal_bench.runs import Run
from cal_bench.tasks import BENCHMARKS, get
from cal_bench.tasks.hub import split_of
from tests import tasks_rows
from tests.hub import Hub, serving
from tests.test_compare import result

COUNT = 12
BAD = '</script><script>window.broken=1</script><img src=x onerror="window.broken=2">&amp;'
WATCHED = """
import atexit, json, sys
atexit.register(lambda: print(json.dumps([name for name in {heavy} if name in sys.modules]), file=sys.stderr))
from cal_bench.cli import main
sys.exit(main({arguments}))
"""


def fingerprint(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_run(folder: Path, results: list[TaskResult], texts: dict[int, str], data: str = "hub") -> Path:
    """A run folder with these summaries; every benchmark has the same answers."""
    run = Run.open(folder, Identity(folder.name, folder.name), {"data": data})
    for one in results:
        run.begin(one.benchmark, Questions(one.data_fingerprint, one.prompts, ("16 tokens",), one.n, one.limit))
        with run.appending(one.benchmark) as append:
            for number, _ in one.samples:
                append(Answer(number, f"p{number}", texts.get(number, f"answer {number}"), 0.0))
        run.finish(one)
    return folder


def chartqa(scores: list[float], data: Path | None = None, **changes: Any) -> TaskResult:
    known = {"data_fingerprint": fingerprint(data / "chartqa.parquet")} if data else {}
    return result("chartqa", scores, **known, **changes)


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs on made-up data beside them: sample 0 is fixed, 1 is broken, 2 to 5 are wrong in both, the others right."""
    tasks_rows.write(tmp_path, "chartqa")
    scores = {"one": [0.0, 1.0, 0, 0, 0, 0, *[1.0] * 6], "two": [1.0, 0.0, 0, 0, 0, 0, *[1.0] * 6]}
    made = [write_run(tmp_path / name, [chartqa(given, tmp_path)], {0: f"{name} says"}, "..") for name, given in scores.items()]
    return made[0], made[1]


def page(tmp_path: Path, *arguments: object) -> str:
    assert cli.main(["page", *map(str, arguments), "-o", str(tmp_path / "page.html")]) == 0
    return (tmp_path / "page.html").read_text()


class Elements(HTMLParser):
    """The elements of a page, as a browser would see them, and the text in each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self._inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self._inside = tag == "script"
        self.scripts += [""] * self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.scripts[-1] += data


def embedded(text: str) -> dict[str, Any]:
    return dict(json.loads(Elements(text).scripts[0]))


def test_a_page_shows_what_changed_with_question_answers_references_scores_and_picture(runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = page(tmp_path, *runs)
    content = embedded(text)
    assert content["arms"] == ["one", "two"]
    samples = {sample["id"]: sample for sample in content["samples"]}
    assert {id: sample["kind"] for id, sample in samples.items()} == {0: "fixed", 1: "broken", **dict.fromkeys((2, 3, 4, 5), "both wrong")}
    first = samples[0]
    assert (first["question"], first["references"], first["options"]) == ("How many in 0?", ["0"], [])
    assert (first["answers"], first["scores"]) == (["one says", "two says"], [0.0, 1.0])
    picture = base64.b64decode(content["pictures"][first["pictures"][0]].removeprefix("data:image/webp;base64,"))
    assert Image.open(io.BytesIO(picture)).size == tasks_rows.SIZE
    assert "<td>66.7</td>" not in text
    assert '<th scope="row"><a href="#samples" data-benchmark="chartqa">chartqa</a></th>' in text
    assert "<td>58.3</td>" in text
    assert "No training logs" in text
    assert "cal-bench page" in text


def test_one_file_that_asks_nothing_of_the_network_and_runs_its_own_script_alone(runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = page(tmp_path, *runs)
    elements = Elements(text)
    assert not [attributes for _, attributes in elements.found if {"src", "srcset", "action"} & set(attributes)]
    assert all(str(attributes["href"]).startswith("#") for _, attributes in elements.found if "href" in attributes)
    policy = next(str(attributes["content"]) for tag, attributes in elements.found if attributes.get("http-equiv"))
    allowed = base64.b64encode(hashlib.sha256(elements.scripts[1].encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"


def test_nothing_from_data_becomes_markup(tmp_path: Path) -> None:
    rows = tasks_rows.rows("chartqa")
    for row in rows:
        row |= {"question": BAD, "answer": BAD}
    data = tmp_path / "<script>data"
    data.mkdir()
    tasks_rows.write(data, "chartqa", rows)
    sides = [[0.0, 1.0] * 6, [1.0, 0.0] * 6]
    names = ["<img src=x onerror=alert(1)>", '"><script>alert(2)']
    texts = dict.fromkeys(range(COUNT), BAD)
    made = [write_run(tmp_path / name, [chartqa(side, data)], texts, "../<script>data") for name, side in zip(names, sides, strict=True)]
    text = page(tmp_path, *made)
    elements = Elements(text)
    assert [tag for tag, _ in elements.found if tag in ("script", "img")] == ["script", "script"]
    assert not [name for _, attributes in elements.found for name in attributes if name.startswith("on")]
    assert elements.scripts[0].count("<") == 0
    content = json.loads(elements.scripts[0])
    assert content["arms"] == names
    assert {sample["question"] for sample in content["samples"]} == {BAD}
    assert {answer for sample in content["samples"] for answer in sample["answers"]} == {BAD}
    assert {reference for sample in content["samples"] for reference in sample["references"]} == {BAD}


def test_names_of_arms_and_stages_in_a_study_are_escaped_too(tmp_path: Path) -> None:
    folder = study(tmp_path, {"<u>a</u>": [0.0] * COUNT, "</script>b": [1.0] * COUNT}, {"<u>pt": [{"step": 1, "loss": 1.0}]})
    elements = Elements(page(tmp_path, folder))
    assert "u" not in [tag for tag, _ in elements.found]
    assert json.loads(elements.scripts[0])["arms"] == ["<u>a</u>", "</script>b"]


def study(tmp_path: Path, arms: dict[str, list[float]], logs: dict[str, Any], config: str = "") -> Path:
    """A study as it is given to people: the records, without run folders."""
    folder = tmp_path / "study"
    folder.mkdir()
    run = {"identity": {"model": "m"}, "config": {"data": "../../data/bench"}, "versions": {"torch": "2.15"}}
    records = {
        name: {"training": {}, "run": run, "results": [asdict(chartqa(scores, tmp_path if config else None))]}
        for name, scores in arms.items()
    }
    (folder / "records.json").write_text(json.dumps({"command": "cal-bench study x", "arms": records}))
    answers = {name: {"chartqa": {"0": f"{name} said"}} for name in arms}
    (folder / "details.json").write_text(json.dumps({"answers": answers, "logs": dict.fromkeys(arms, logs)}))
    (folder / "config.yaml").write_text(config)
    return folder


def test_a_folder_whose_name_is_no_text_is_no_obstacle(tmp_path: Path) -> None:
    made = [write_run(tmp_path / name, [chartqa([value] * 3)], {}) for name, value in (("a", 0.0), ("b", 1.0))]
    made[0] = made[0].rename(tmp_path / "run \udcff")
    assert embedded(page(tmp_path, *made))["arms"] == ["run \udcff", "b"]


def test_a_study_shows_its_curves_configs_and_versions(tmp_path: Path) -> None:
    log = [{"step": 10, "loss": 2.0, "cal/weight_mean": 1.5, "seconds_per_step": 0.25}, {"step": 20, "loss": 1.0, "seconds_per_step": 0.5}]
    text = page(tmp_path, study(tmp_path, {"baseline": [0.0] * COUNT, "cal": [1.0] * COUNT}, {"pt": log}, ""))
    assert text.count("<polyline") == 4
    assert text.count('<circle class="arm') == 2
    for title in ("Training loss", "CAL: mean weight of a label token", "Seconds per step", "Stage pt"):
        assert title in text
    assert "CAL: share" not in text
    assert '<th scope="row">torch</th><td>2.15</td><td>2.15</td>' in text
    assert embedded(text)["samples"][0]["answers"] == ["baseline said", "cal said"]


def test_pictures_of_a_miniature_world_are_drawn_again(tmp_path: Path) -> None:
    sizes = WorldSizes(2, 2, 2, 7)
    draw_world(tmp_path / "drawn", sizes)
    for file in (tmp_path / "drawn" / "bench").glob("chartqa.parquet"):
        file.rename(tmp_path / "chartqa.parquet")
    config = f"world: {json.dumps(asdict(sizes))}\n"
    text = page(tmp_path, study(tmp_path, {"a": [0.0, 1.0], "b": [1.0, 0.0]}, {}, config))
    assert all(sample["pictures"] and sample["question"] for sample in embedded(text)["samples"])
    assert "drawn again by other versions" not in text


def test_the_shipped_demo_needs_nothing_but_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = embedded(page(tmp_path, "demo", "--data", tmp_path))
    assert content["arms"] == ["baseline", "cal"]
    assert len({sample["benchmark"] for sample in content["samples"]}) == 15
    assert all(isinstance(answer, str) for sample in content["samples"] for answer in sample["answers"])


def test_it_imports_neither_torch_nor_lmms_eval(runs: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = ["page", *map(str, runs), "-o", str(tmp_path / "page.html")]
    code = WATCHED.format(heavy=["torch", "transformers", "lmms_eval"], arguments=arguments)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stderr.splitlines()[-1]) == []


# Where the data is not, or is other data.


def test_without_data_the_page_says_so_and_shows_the_answers(tmp_path: Path) -> None:
    made = [write_run(tmp_path / name, [chartqa([value] * COUNT)], {}, "../nowhere") for name, value in (("a", 0.0), ("b", 1.0))]
    text = page(tmp_path, *made)
    assert "chartqa: No questions and pictures: chartqa: the data folder" in text
    sample = embedded(text)["samples"][0]
    assert (sample["question"], sample["pictures"], sample["answers"]) == (None, [], ["answer 0", "answer 0"])


def test_other_data_than_the_runs_had_is_not_shown(runs: tuple[Path, Path], tmp_path: Path) -> None:
    tasks_rows.write(tmp_path, "chartqa", tasks_rows.rows("chartqa", COUNT + 1))
    text = page(tmp_path, *runs)
    assert "is other than what the runs had" in text
    assert embedded(text)["pictures"] == {}


def test_data_that_has_moved_can_be_given(runs: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "moved").mkdir()
    (tmp_path / "chartqa.parquet").rename(tmp_path / "moved" / "chartqa.parquet")
    assert embedded(page(tmp_path, *runs, "--data", tmp_path / "moved"))["pictures"]


def test_data_of_the_hub_is_read_from_its_cache_without_asking_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tasks_rows.write(tmp_path, "chartqa")
    hub = Hub(tmp_path / "hub")
    hub.add("datasets", "lmms-lab-encoder/ChartQA", {"data/test-00000-of-00001.parquet": file.read_bytes()})
    made = [write_run(tmp_path / name, [chartqa([value] * COUNT, tmp_path)], {}) for name, value in (("a", 0.0), ("b", 1.0))]
    with serving(hub, tmp_path / "cache", monkeypatch):
        assert "chartqa: No questions and pictures: its data were never fetched" in page(tmp_path, *made)
        assert not hub.asked
        split_of("lmms-lab-encoder/ChartQA", None, "test")
    assert all(sample["pictures"] for sample in embedded(page(tmp_path, *made))["samples"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["one", "two", "three"], "page takes two run folders, BEFORE and AFTER, or one study; 3 were given"),
        (["one"], "There is nothing to compare one with"),
        (["one", "one"], "one is given twice"),
        (["one", "nowhere"], "nowhere is not a run folder"),
        (["one", "two", "--ouput", "x"], "Did you mean '--out'"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["page", *arguments]) == 2
    assert words in capsys.readouterr().err
    assert not Path("report.html").exists()


def test_runs_to_other_questions_are_refused_as_compare_refuses_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [write_run(tmp_path / name, [chartqa([1.0] * COUNT, prompts=name)], {}) for name in "ab"]
    assert cli.main(["page", *map(str, made), "-o", str(tmp_path / "page.html")]) == 2
    assert "chartqa: other prompts" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


# The parts.


def test_the_largest_changes_come_first_and_what_both_got_wrong_last() -> None:
    before = result("docvqa", [0.0, 1.0, 0.5, 0.2, 0.0, 1.0, 0.9])
    after = result("docvqa", [0.4, 0.0, 1.0, 0.1, 0.0, 1.0, 0.0])
    selection = select(before, after)
    assert [(change.id, change.kind) for change in selection.changes] == [
        *[(1, "broken"), (2, "fixed"), (6, "broken"), (0, "fixed"), (3, "broken")],
        (4, "both wrong"),
    ]
    assert selection.counts == {"fixed": 2, "broken": 3, "both wrong": 1}


def test_counts_are_those_of_the_comparison_and_long_lists_are_cut() -> None:
    makeup = Makeup(100.0, tuple(range(3000)), categories=(None, *[""] * 2999))
    before, after = (result("mme", [value] * 3000, makeup=makeup) for value in (0.0, 1.0))
    selection = select(before, after)
    assert selection.counts["fixed"] == 2999
    assert [change.id for change in selection.changes] == list(range(1, 1001))


def test_scores_in_points_are_drawn_as_shares_of_what_can_be_had() -> None:
    assert full_mark([result("docvqa", [1.0])]) == 100
    assert full_mark([result("ocrbench", [1.0, 0.0], scale=1000.0, unit="points")]) == 1000
    makeup = Makeup(1.0, (0, 0, 1, 1), ("a", "a", "b", None), (200.0, 200.0, 0.0, 0.0), (1.0,) * 4, summed=True)
    assert full_mark([result("mme", [1.0] * 4, makeup=makeup, unit="points")]) == 400


def test_plots_share_a_round_scale() -> None:
    marks = [Mark(0.1, -0.02, 0.13, "better"), Mark(-0.3, -0.31, -0.2, "worse")]
    assert reach(marks) == 0.5
    assert reach([]) == 0.01
    assert [nice(number) for number in (0.013, 2.0, 2.2, 7.0, 1e-9)] == [0.02, 2.0, 2.5, 10.0, 1e-9]
    assert 'class="forest worse"' in forest(marks[1], 0.5)
    assert f'cx="{120 * (1 - 0.96 * 0.6):.1f}"' in forest(marks[1], 0.5)


def test_curves_leave_out_what_is_no_number_and_hold_a_flat_line() -> None:
    log = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": math.nan}, {"step": 3, "loss": None}, {"step": 4, "loss": 2.0}, {"epoch": 1}]
    assert points_of(log, "loss") == ((1.0, 2.0), (4.0, 2.0))
    drawn = chart("Loss", [Line("a", 0, points_of(log, "loss"))])
    assert "nan" not in drawn
    assert "<polyline" in drawn


def png(size: tuple[int, int], noise: bool = False) -> bytes:
    stream = io.BytesIO()
    (Image.effect_noise(size, 200) if noise else Image.new("RGB", size, "red")).save(stream, "PNG")
    return stream.getvalue()


def test_pictures_are_made_small_and_say_nothing_but_the_picture() -> None:
    small = base64.b64decode(data_uri(png((3000, 200))).partition(",")[2])
    assert Image.open(io.BytesIO(small)).size[0] == SIDES[0]
    assert len(base64.b64decode(data_uri(png((1500, 1500), noise=True)).partition(",")[2])) <= MOST_BYTES
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x010E], exif[0x0112] = "a secret place", 6
    Image.new("RGB", (40, 20)).save(stream, "JPEG", exif=exif)
    assert b"secret" in stream.getvalue()
    copy = base64.b64decode(data_uri(stream.getvalue()).partition(",")[2])
    assert b"secret" not in copy
    assert Image.open(io.BytesIO(copy)).size == picture_size(stream.getvalue()) == (20, 40)


def test_an_album_has_each_picture_once_and_ends_at_its_budget() -> None:
    one, two, three = (png((10 + number, 10)) for number in range(3))
    made = album([(0, [one]), (1, [one]), (2, [two]), (3, [b"no picture"]), (4, [three])], 10_000)
    assert len(made.pictures) == 3
    assert made.names[0] == made.names[1] != made.names[2]
    assert (made.left_out, made.unreadable, made.names[3]) == (0, 1, ())
    tight = album([(0, [one]), (1, [two]), (2, [one])], 1)
    assert (len(tight.pictures), tight.left_out, tight.names[1], tight.names[2]) == (1, 1, (), tight.names[0])


QUESTIONS = {
    "chartqa": ("How many in 3?", (), ("30",)),
    "docvqa": ("What is line 3?", (), ("line number 3", "the line 3")),
    "textvqa": ("what Does sign 3 say?", (), ("Stop!", "Go 3")),
    "ocrbench": ("What is written in 3?", (), ("Word 3",)),
    "mmt": ("Which of these is 3?", ("A. thing A3", "B. thing B3", "C. thing C3", "D. thing D3"), ("D",)),
    "scienceqa_img": ("Which is 3?", ("A. one", "B. two", "C. three", "D. four"), ("D",)),
    "seed_img": ("Which is 3?", ("A. a 3", "B. b 3", "C. c 3", "D. d 3"), ("D",)),
    "coco_caption": ("", (), tuple(tasks_rows.captions(3))),
    "textcaps": ("", (), tuple(tasks_rows.captions(3))),
    "refcocog_val": ("the thing 2", (), ("[0.150, 0.100, 0.650, 0.617]",)),
    "mme": ("Is it 3? Please answer yes or no.", (), ("Yes",)),
    "pope": ("Is there a 3 in the image?", (), ("yes",)),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_what_a_row_asks_and_expects(name: str, tmp_path: Path) -> None:
    file = tasks_rows.write(tmp_path, get(name).file)
    asked = read_questions(get(name), [file], [3])
    question = asked.by_sample[3]
    assert (question.text, question.options, question.references) == QUESTIONS[name]
    assert len(question.pictures) == 1
    assert asked.fingerprint == fingerprint(file)


def test_boxes_are_shares_of_the_picture(tmp_path: Path) -> None:
    file = tasks_rows.write(tmp_path, "refcocog_val")
    run = [
        write_run(tmp_path / name, [result("refcocog_val", [value] * 18, data_fingerprint=fingerprint(file))], {0: text}, "..")
        for name, value, text in (("a", 0.0, "no box"), ("b", 1.0, "It is at [0.1, 0.2, 0.5, 1.5]."))
    ]
    sample = next(one for one in embedded(page(tmp_path, *run))["samples"] if one["id"] == 0)
    assert sample["boxes"] == {"expected": pytest.approx([0.1, 0.1, 0.6, 18.5 / 30]), "arm1": [0.1, 0.2, 0.5, 1.5]}


def test_a_world_that_is_drawn_otherwise_today_is_shown_with_a_warning(tmp_path: Path) -> None:
    tasks_rows.write(tmp_path, "chartqa")
    asked = ask(Place(str(tmp_path), redrawn=True), chartqa([1.0] * COUNT), [3])
    assert asked.questions[3].text == "How many in 3?"
    assert asked.note == REDRAWN


def test_rows_are_found_in_several_files(tmp_path: Path) -> None:
    rows = tasks_rows.rows("pope")
    files = [tasks_rows.write_as(tmp_path / f"{part}.parquet", "pope", rows[5 * part : 5 * part + 5]) for part in range(3)]
    asked = read_questions(get("pope"), files, [11, 0, 7])
    assert {id: question.text for id, question in asked.by_sample.items()} == {id: f"Is there a {id} in the image?" for id in (0, 7, 11)}


def test_data_sets_on_the_hub_are_where_lmms_eval_says() -> None:
    from cal_bench.tasks.lmms import read_definition

    for benchmark in BENCHMARKS:
        definition, origin = read_definition(benchmark), origin_of(benchmark)
        assert (origin.repository, origin.name) == (definition.dataset_path, definition.dataset_name)


def test_details_keep_every_answer_and_log(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [chartqa([1.0, 0.0])], {0: "half \ud83d of a pair", 1: "\u2028\x00"})
    write_details(tmp_path, {"a": run}, {"a": {"pt": [{"step": 1, "loss": math.inf}]}})
    details = read_details(tmp_path)
    assert details.answers == {"a": {"chartqa": {0: "half \ud83d of a pair", 1: "\u2028\x00"}}}
    assert details.logs == {"a": {"pt": [{"step": 1.0, "loss": None}]}}


def test_a_page_holds_any_text_that_a_model_can_say(tmp_path: Path) -> None:
    texts = {0: "half \ud83d of a pair", 1: "\u2028\x00 $title ${x}"}
    made = [write_run(tmp_path / name, [replace(chartqa([value, value]))], texts) for name, value in (("$before", 0.0), ("b", 1.0))]
    content = embedded(page(tmp_path, *made))
    assert [sample["answers"][0] for sample in content["samples"]] == [texts[0], texts[1]]
