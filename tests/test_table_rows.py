"""Rows of the paper's layout, of the paper itself and of studies; LaTeX and CSV; and the command."""

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from cal_bench import cli
from cal_bench.errors import UserError
from cal_bench.published import published_model, published_models, published_tables
from cal_bench.records import Identity, Makeup, Questions
from cal_bench.runs import Run
from cal_bench.table_rows import named_rows
from cal_bench.table_text import tables_csv, tables_latex, tables_markdown
from cal_bench.tables import Beside, Wanted, tables_json
from tests.test_tables import BASELINE, CAL, COLUMNS, COMMAND, arm, result


def beside(arms, name="llava-1.5-7b", widths=3.0):
    model = published_model(name)
    intervals = {arm_name: {one: (made.score - widths, made.score + widths) for one, made in row.items()} for arm_name, row in arms.items()}
    return Beside(model, intervals, dict.fromkeys(COLUMNS, 150))


PAIRS = {
    "llava-1.5-7b+cal": CAL,
    "llava-1.5-7b": BASELINE,
    "llava-next-7b": arm(result("docvqa", 75.0)),
    "llava-next-7b+cal": arm(result("docvqa", 77.0)),
}

EXPECTED_PAIRS = """\
### Table 1. Visual question answering

| Method | LLM | OCRB. | VQA-Doc | VQA-Chart | Win/All |
| --- | --- | ---: | ---: | ---: | :---: |
| *Low resolution* |  |  |  |  |  |
| LLaVA-1.5 | Vicuna-7B | 335 | 39.8 | 17.5 |  |
| LLaVA-1.5+CAL | Vicuna-7B | **360** | **44.8** | 17.5 | 2/3 |
| *High resolution* |  |  |  |  |  |
| LLaVA-NeXT | Vicuna-7B | – | 75.0 | – |  |
| LLaVA-NeXT+CAL | Vicuna-7B | – | **77.0** | – | 1/1 |

Best of those compared in bold. Win/All: columns that are strictly better than the row without the + at the printed precision, of all.\\
Samples: ocrbench 150, docvqa 150, chartqa 150.\\
Data: ocrbench ocrbench, docvqa docvqa01, chartqa chartqa0.

Made by `cal-bench study demo`.
"""


def test_rows_named_as_the_paper_s_models_stand_in_its_layout():
    assert tables_markdown(PAIRS, COMMAND, Wanted((1,))) == EXPECTED_PAIRS


def test_the_printed_tables_of_the_paper_come_out_of_its_own_scores():
    table = published_tables()[1]
    arms = {
        name: {
            one: replace(result("docvqa", score), benchmark=one, column=one, decimals=table.decimals[one])
            for one, score in model.rows[1].scores.items()
        }
        for name, model in published_models().items()
    }
    rows = tables_json(arms, COMMAND, Wanted((1,)))["tables"][0]["rows"]
    assert len(rows) == 18
    for row in rows:
        model = published_models()[row["arm"]]
        assert row["win_all"] == model.rows[1].win_all
        assert (row["setting"], row["method"], row["llm"]) == (model.setting, model.method, model.llm)


def test_other_arms_of_a_paper_s_model_keep_their_name():
    rows = tables_json({"mgm-2b": BASELINE, "mgm-2b+blur": CAL}, COMMAND)["tables"][0]["rows"]
    assert [row["method"] for row in rows] == ["MGM", "MGM+blur"]
    assert rows[1]["win_all"] == "2/3"


EXPECTED_BESIDE = """\
| baseline | 335 | **39.8** | **17.5** |  |
| *Published* |  |  |  |  |
| LLaVA-1.5 Vicuna-7B (paper) | 315 | 28.5 | 17.5 |  |
| baseline − paper | +20 | +11.3 | 0.0≈ |  |
"""


def test_a_published_row_stands_beside_with_differences_and_what_is_sampling():
    arms = {"baseline": BASELINE}
    text = tables_markdown(arms, COMMAND, Wanted((1,), beside(arms)))
    assert EXPECTED_BESIDE.replace("**", "") in text
    assert "≈ the published number lies in the 95 % sampling interval of the run's.\\\nSamples" in text


def test_official_numbers_stand_in_table_6_alone():
    arms = {"baseline": BASELINE}
    tables = tables_json(arms, COMMAND, Wanted((1, 6, 7), beside(arms)))["tables"]
    assert {table["table"]: [row["kind"] for row in table["published"]] for table in tables} == {
        1: ["paper"],
        7: ["paper"],
        6: ["paper", "official"],
    }
    official = tables[2]["published"][1]
    assert official["scores"]["mme"] == 1508
    assert tables[2]["differences"][1]["differences"]["mme"] == pytest.approx(1335 - 1508)


def test_without_an_interval_nothing_is_said_of_sampling():
    arms = {"a": arm(result("docvqa", 28.5))}
    text = tables_markdown(arms, COMMAND, Wanted((1,), Beside(published_model("llava-1.5-7b"), {"a": {}}, {"docvqa": 5349})))
    assert "| a − paper | 0.0 |  |" in text
    assert "No interval is known of docvqa." in text
    assert "the published numbers are of whole benchmarks (docvqa 5,349), these runs have fewer samples." in text


EXPECTED_LATEX = r"""% Made by: cal-bench study demo
% Needs \usepackage{booktabs}

\begin{table}[t]
\centering
\caption{Visual question answering.}
\begin{tabular}{lrrrc}
\toprule
Arm & OCRB. & VQA-Doc & VQA-Chart & Win/All \\
\midrule
base\_1 & 335 & 39.8 & 17.5 &  \\
50\% \& more & \textbf{360} & \textbf{44.8} & 17.5 & 2/3 \\
\bottomrule
\end{tabular}

\footnotesize
Best in bold. Win/All: columns that are strictly better than base\_1 at the printed precision, of all.\\
Samples: ocrbench 150, docvqa 150, chartqa 150.\\
Data: ocrbench ocrbench, docvqa docvqa01, chartqa chartqa0.
\end{table}
"""


def test_the_whole_latex():
    assert tables_latex({"base_1": BASELINE, "50% & more": CAL}, COMMAND, Wanted((1,))) == EXPECTED_LATEX


def test_csv_has_a_line_per_score_and_survives_odd_names():
    odd = 'a,"b"\nc'
    lines = list(csv.DictReader(io.StringIO(tables_csv({odd: BASELINE, "cal": CAL}, COMMAND, Wanted((1, 7))))))
    assert len(lines) == 2 * 3 + 2
    assert lines[0]["row"] == odd
    assert (lines[0]["score"], lines[0]["printed"], lines[0]["best"]) == ("335.4", "335", "0")
    assert (lines[3]["benchmark"], lines[3]["best"], lines[3]["win_all"]) == ("ocrbench", "1", "2/3")


def test_csv_says_nothing_of_the_paper_s_samples():
    arms = {"a": BASELINE}
    lines = list(csv.DictReader(io.StringIO(tables_csv(arms, COMMAND, Wanted((6,), beside(arms))))))
    assert [(line["kind"], line["n"]) for line in lines if line["benchmark"] == "docvqa"] == [
        ("run", "150"),
        ("paper", ""),
        ("official", ""),
    ]


def test_footnotes_tell_split_scorer_odd_answers_and_the_scale_of_limited_captions():
    made = result("coco_caption", 8.0, split="val", scorer="lmms-eval 0.7.3", unreadable=0, empty=4, limit=20, n=20, unit="CIDEr")
    text = tables_markdown({"a": arm(made)}, COMMAND)
    assert "CIDEr over a part of the pictures has another scale than over all of them." in text
    assert "Empty answers: a coco_caption 4." in text
    assert "Samples: coco_caption 20 (val)." in text
    assert "Scored by lmms-eval 0.7.3." in text


def test_the_models_of_the_paper_have_short_names():
    models = published_models()
    assert len(models) == 18
    assert {"mgm-2b", "mgm-hd-13b+cal", "llava-1.5-7b", "llava-next-13b+cal"} <= set(models)
    assert models["llava-next-7b"].official["mme"] == 1519
    assert models["llava-next-7b+cal"].official == {}


def test_table_6_repeats_the_numbers_of_the_other_tables():
    for model in published_models().values():
        for number in (1, 2, 7):
            shared = model.rows[number].scores.items() & model.rows.get(6, model.rows[number]).scores.items()
            both = set(model.rows[number].scores) & set(model.rows.get(6, model.rows[number]).scores)
            assert {name for name, _ in shared} == both


def test_an_unknown_model_is_told_with_the_nearest():
    with pytest.raises(UserError, match=r"The paper has no model 'llava-nxt-7b'\. Did you mean 'llava-next-7b'\?"):
        published_model("llava-nxt-7b")


def write_run(folder, *results):
    run = Run.open(folder, Identity(folder.name, folder.name))
    for one in results:
        run.begin(one.benchmark, Questions(one.data_fingerprint, one.prompts, (), one.n, one.limit))
        run.finish(one)
    return str(folder)


def made_of(benchmark, scores):
    """A result that keeps what its score is made of."""
    samples = tuple(enumerate(map(float, scores)))
    makeup = Makeup(100.0, tuple(range(len(samples))))
    return result(benchmark, 100 * sum(scores) / len(samples), n=len(samples), samples=samples, makeup=makeup)


def test_the_command_writes_checks_and_refuses(tmp_path, capsys):
    runs = [write_run(tmp_path / name, made_of("docvqa", [1] * right + [0] * 50)) for name, right in (("a", 50), ("b", 60))]
    runs[1] = write_run(tmp_path / "c", made_of("docvqa", [1] * 60 + [0] * 40))
    out = tmp_path / "t.md"
    command = ["table", *runs, "--out", str(out)]
    assert cli.main([*command, "--check"]) == 2
    assert "There is no file" in capsys.readouterr().err
    assert cli.main(command) == 0
    assert cli.main([*command, "--check"]) == 0
    out.write_text(out.read_text() + "edited\n")
    assert cli.main([*command, "--check"]) == 1
    assert out.read_text().endswith("edited\n")
    assert "is not what this command writes" in capsys.readouterr().err
    assert cli.main(["table", *runs, "--check"]) == 2
    assert "Name it with --out FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--published", "llava-nxt-7b"], "Did you mean 'llava-next-7b'"),
        (["--tables", "3"], "invalid choice: 3"),
        (["--tables", "2"], "no run holds a complete benchmark of the tables 2"),
        (["--format", "word"], "invalid choice: 'word'"),
        (["--pubished", "x"], "Did you mean '--published'"),
    ],
)
def test_mistakes_are_told(tmp_path, capsys, arguments, words):
    run = write_run(tmp_path / "a", made_of("docvqa", [1, 0]))
    assert cli.main(["table", run, *arguments]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["markdown", "latex", "csv", "json"])
def test_every_format_can_be_had_with_a_published_row(tmp_path, capsys, kind):
    run = write_run(tmp_path / "a", made_of("docvqa", [1, 0, 0, 0] * 25))
    assert cli.main(["table", run, "--published", "llava-1.5-7b", "--tables", "1", "6", "--format", kind]) == 0
    out = capsys.readouterr().out
    assert "28.5" in out
    if kind == "json":
        assert json.loads(out)["tables"][0]["differences"][0]["within"] == {"docvqa": True}
    if kind == "markdown":
        assert f"Made by `cal-bench table {run} --tables 1 6 --published llava-1.5-7b`." in out
        assert "| a − paper | −3.5≈ |" in out


def test_several_studies_are_named_as_their_folders(tmp_path):
    for name in ("mgm-2b", "other"):
        arms = {arm_name: {"results": [asdict(result("docvqa", score))]} for arm_name, score in (("baseline", 1.0), ("cal", 2.0))}
        (tmp_path / name).mkdir()
        (tmp_path / name / "records.json").write_text(json.dumps({"command": "cal-bench study x", "arms": arms}))
    both = named_rows([tmp_path / "mgm-2b", tmp_path / "other"])
    assert list(both.arms) == ["mgm-2b", "mgm-2b+cal", "other", "other+cal"]
    assert list(named_rows([tmp_path / "other"]).arms) == ["baseline", "cal"]
    assert list(named_rows([tmp_path / "mgm-2b"]).arms) == ["mgm-2b", "mgm-2b+cal"]
    with pytest.raises(UserError, match="other is given twice"):
        named_rows([tmp_path / "other", tmp_path / "other"])


def test_runs_of_the_same_name_are_told_apart_by_their_paths(tmp_path):
    runs = [write_run(tmp_path / study / "baseline", result("docvqa", 1.0)) for study in "ab"]
    assert list(named_rows([Path(run) for run in runs]).arms) == runs


def test_an_approximate_score_is_marked_and_explained():
    made = result("coco_caption", 8.0, unit="CIDEr", approximate=True)
    text = tables_markdown({"a": arm(made)}, COMMAND)
    assert "| Arm | COCO Caption‡ | Win/All |" in text
    assert "‡ CIDEr without the Java tokenizer: near to published scores, and not to be held against them." in text
    assert r"COCO Caption$\ddagger$" in tables_latex({"a": arm(made)}, COMMAND)
