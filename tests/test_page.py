"""The page: what is in it, that nothing from data becomes markup, and what it does without data."""

import base64
import hashlib
import io
import json
import subprocess
import sys
from dataclasses import asdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from cal_bench import cli
from cal_bench.miniworld import WorldSizes, draw_world
from cal_bench.records import Answer, Identity, Questions, TaskResult
from cal_bench.runs import Run
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
        (["one", "two", "three"], "Give two run folders, BEFORE and AFTER, or one study; 3 were given"),
        (["one"], "There is nothing to compare one with"),
        (["one", "one"], "one is given twice"),
        (["one", "nowhere"], "nowhere is not a run folder"),
        (["one", "two", "--ouput", "x"], "Did you mean '--out'"),
        (["one", "two", "--data", "nosuch"], "--data: there is no nosuch"),
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
