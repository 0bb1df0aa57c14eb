import json
from dataclasses import replace

import pytest

from cal_bench.errors import UserError
from cal_bench.records import TaskResult
from cal_bench.table_text import escape, tables_markdown
from cal_bench.tables import Wins, count_wins, tables_json

COLUMNS = {"ocrbench": "OCRB.", "docvqa": "VQA-Doc", "chartqa": "VQA-Chart", "coco_caption": "COCO Caption", "mme": "MME", "pope": "POPE"}


def result(benchmark, score, **changes):
    made = TaskResult(
        benchmark=benchmark,
        column=COLUMNS[benchmark],
        score=score,
        unit="%",
        decimals=0 if benchmark in ("ocrbench", "mme") else 1,
        n=150,
        limit=None,
        unreadable=0,
        empty=0,
        data_fingerprint=f"{benchmark}0123456789",
        prompts="p",
        metrics={},
        samples=((0, 1.0),),
    )
    return replace(made, **changes)


def arm(*results):
    return {one.benchmark: one for one in results}


BASELINE = arm(
    result("ocrbench", 335.4), result("docvqa", 39.84), result("chartqa", 17.52), result("coco_caption", 8.04), result("mme", 1335.0)
)
CAL = arm(result("ocrbench", 360.0), result("docvqa", 44.8), result("chartqa", 17.46), result("coco_caption", 8.01), result("mme", 1333.2))
COMMAND = "cal-bench study demo"

EXPECTED = """\
### Table 1. Visual question answering

| Arm | OCRB. | VQA-Doc | VQA-Chart | Win/All |
| --- | ---: | ---: | ---: | :---: |
| baseline | 335 | 39.8 | 17.5 |  |
| cal | **360** | **44.8** | 17.5 | 2/3 |

Best in bold. Win/All: columns that are strictly better than baseline at the printed precision, of all.\\
Samples: ocrbench 150, docvqa 150, chartqa 150.\\
Data: ocrbench ocrbench, docvqa docvqa01, chartqa chartqa0.

### Table 2. Image captioning and visual grounding

| Arm | COCO Caption | Win/All |
| --- | ---: | :---: |
| baseline | 8.0 |  |
| cal | 8.0 | 0/1 |

Best in bold. Win/All: columns that are strictly better than baseline at the printed precision, of all.\\
Samples: coco_caption 150.\\
Data: coco_caption coco_cap.

### Table 7. Additional benchmarks; VQA-Text\\* is given OCR tokens

| Arm | MME |
| --- | ---: |
| baseline | **1335** |
| cal | 1333 |

Best in bold.\\
Samples: mme 150.\\
Data: mme mme01234.

Made by `cal-bench study demo`.
"""


def test_the_whole_text():
    assert tables_markdown({"baseline": BASELINE, "cal": CAL}, COMMAND) == EXPECTED


def test_a_win_is_strictly_better_at_the_printed_precision():
    decimals = {"a": 1, "b": 1, "c": 0}
    assert count_wins({"a": 17.52, "b": 1.0, "c": 500.2}, {"a": 17.54, "b": 1.1, "c": 500.4}, decimals) == Wins(1, 3)
    assert count_wins({"a": 17.54}, {"a": 17.56}, decimals) == Wins(1, 1)
    assert count_wins({"a": 9.9}, {"a": 10.0}, decimals) == Wins(1, 1)


def test_only_columns_that_both_have_count():
    assert count_wins({"a": 1.0, "b": 1.0}, {"b": 2.0}, {"a": 1, "b": 1}) == Wins(1, 1)


def test_every_arm_is_compared_with_the_first():
    both = tables_json({"baseline": BASELINE, "cal": CAL, "logp": arm(result("docvqa", 39.9))}, COMMAND)
    assert [row["win_all"] for row in both["tables"][0]["rows"]] == ["", "2/3", "1/1"]


def test_a_missing_score_is_a_dash_and_alone_nothing_is_best():
    text = tables_markdown({"a": arm(result("docvqa", 1.0)), "b": arm(result("chartqa", 2.0))}, COMMAND)
    assert "| a | 1.0 | – |  |" in text
    assert "| b | – | 2.0 | 0/0 |" in text


def test_equal_best_scores_are_both_bold():
    text = tables_markdown({"a": arm(result("pope", 3.04)), "b": arm(result("pope", 3.0)), "c": arm(result("pope", 1.0))}, COMMAND)
    assert "| a | **3.0** |\n| b | **3.0** |\n| c | 1.0 |" in text


def test_one_arm_has_nothing_to_win():
    text = tables_markdown({"a": arm(result("docvqa", 1.0))}, COMMAND)
    assert "Win/All:" not in text
    assert "| a | 1.0 |  |" in text


def test_a_limited_column_is_marked_and_explained():
    text = tables_markdown({"a": arm(result("docvqa", 1.0, limit=20, n=20), result("chartqa", 2.0))}, COMMAND)
    assert "| Arm | VQA-Doc† | VQA-Chart | Win/All |" in text
    assert "† Limited to at most 20 random samples, the same for every arm." in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"limit": 20}, "different limits (none and 20)"),
        ({"n": 149}, "different numbers of samples (150 and 149)"),
        ({"data_fingerprint": "other"}, "different data (docvqa012345 and other)"),
        ({"prompts": "q"}, "different prompts or samples (p and q)"),
    ],
)
def test_results_that_cannot_be_compared_are_refused(changes, words):
    arms = {"a": arm(result("docvqa", 1.0)), "b": arm(result("docvqa", 1.0, **changes))}
    with pytest.raises(UserError, match="a and b cannot be put into one table") as refusal:
        tables_json(arms, COMMAND)
    assert words in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("a|b", "a\\|b"),
        ("**x**", "\\*\\*x\\*\\*"),
        ("two\nlines", "two lines"),
        ("cal_logp", "cal_logp"),
        ("_x_", "\\_x\\_"),
        ("<b>&", "\\<b\\>\\&"),
    ],
)
def test_odd_names_of_arms_do_not_break_the_table(name, shown):
    assert escape(name) == shown
    text = tables_markdown({name: arm(result("docvqa", 1.0)), "plain": arm(result("docvqa", 2.0))}, COMMAND)
    assert f"| {shown} | 1.0 |  |" in text
    assert len(text.splitlines()) == len(
        tables_markdown({"a": arm(result("docvqa", 1.0)), "b": arm(result("docvqa", 2.0))}, COMMAND).splitlines()
    )


def test_a_backtick_in_the_command_does_not_end_its_code_span():
    assert "Made by `` cal-bench table `x` ``." in tables_markdown({"a": arm(result("docvqa", 1.0))}, "cal-bench table `x`")


def test_json_holds_the_unrounded_numbers():
    content = json.loads(json.dumps(tables_json({"baseline": BASELINE, "cal": CAL}, COMMAND)))
    first = content["tables"][0]
    assert first["rows"][1]["scores"] == {"ocrbench": 360.0, "docvqa": 44.8, "chartqa": 17.46}
    assert first["rows"][1]["best"] == ["ocrbench", "docvqa"]
    assert first["columns"][0] == {
        "benchmark": "ocrbench",
        "column": "OCRB.",
        "unit": "%",
        "decimals": 0,
        "n": 150,
        "split": "",
        "limit": None,
        "data_fingerprint": "ocrbench0123456789",
        "prompts": "p",
        "scorer": "",
        "approximate": False,
    }
    assert content["command"] == COMMAND


def test_no_results_is_a_message():
    with pytest.raises(UserError, match="nothing to put into a table"):
        tables_markdown({"a": {}}, COMMAND)
