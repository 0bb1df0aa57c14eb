import json

import pytest

from cal_bench.published import published_tables
from cal_bench.tables import LAYOUTS, count_wins, printed
from tests.shared import SHARED, needs_shared


def test_every_table_of_numbers_is_there_with_its_source():
    tables = published_tables()
    assert list(tables) == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    for number, table in tables.items():
        assert table.table == number
        assert table.source.endswith(f"arXiv 2405.17871, Table {number}")
        assert table.caption


@pytest.mark.parametrize("number", [1, 2])
def test_the_rule_of_wins_reproduces_every_win_all_cell(number):
    table = published_tables()[number]
    pairs = list(zip(table.rows[::2], table.rows[1::2], strict=True))
    assert len(pairs) == 9
    for before, after in pairs:
        assert after.labels == {**before.labels, "method": before.labels["method"] + "+CAL"}
        assert before.win_all == ""
        assert str(count_wins(before.scores, after.scores, table.decimals)) == after.win_all


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_our_tables_have_the_columns_of_the_papers(layout):
    assert tuple(published_tables()[layout.number].decimals) == layout.benchmarks


def test_scores_are_as_printed():
    for table in published_tables().values():
        for row in table.rows:
            assert set(row.scores) == set(table.decimals)
            for column, score in row.scores.items():
                assert score is None or score == float(printed(score, table.decimals[column]))


@needs_shared
@pytest.mark.parametrize("number", sorted(published_tables()))
def test_the_numbers_are_those_of_the_extracted_tables(number):
    extracted = json.loads((SHARED / "paper" / "tables.json").read_text(encoding="utf-8"))[f"table{number}"]["rows"]
    ours = [{**row.labels, **row.scores, "win_all": row.win_all} for row in published_tables()[number].rows]
    assert ours == [{"win_all": "", **row} for row in extracted]
