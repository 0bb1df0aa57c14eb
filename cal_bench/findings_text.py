"""Findings as markdown and JSON: the tables over seeds, and all comparisons."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from cal_bench.compare_text import HEADINGS, cells, comparison_json, explanation_lines, probability, verdict_lines
from cal_bench.findings import Findings, Overall, Pair, Row
from cal_bench.records import TaskResult
from cal_bench.table_text import code, escape, grid, markdown
from cal_bench.tables import ODD, printed, signed, tables_json

DECIMALS = 1  # of the mean over benchmarks


def seed_tables(findings: Findings) -> dict[str, Any]:
    """The paper's tables with the mean over seeds in each cell, and the scores of all seeds behind them."""
    means = {row.name: {name: _mean(results) for name, results in row.common().items()} for row in findings.rows}
    tables = tables_json(means, findings.command)["tables"]
    spreads = {row.name: _spreads(row) for row in findings.rows}
    for row in (row for table in tables for row in table["rows"]):
        row["printed"] = {name: shown + spreads[row["arm"]].get(name, "") for name, shown in row["printed"].items()}
    return {"command": findings.command, "seeds": findings.seeds, "scores": _scores(findings), "tables": tables}


def seed_tables_markdown(tables: Mapping[str, Any]) -> str:
    """The same for people."""
    seeds = ", ".join(map(str, tables["seeds"]))
    several = f"Means over the seeds {seeds} ± the deviation between them. Counts of answers are sums over the seeds."
    note = several if len(tables["seeds"]) > 1 else f"Seed {seeds} alone."
    grids = [grid(table) for table in tables["tables"]]
    shown = [markdown(replace(one, notes=(note, *one.notes))) for one in grids]
    return "\n".join([*shown, made_by(tables["command"])])


def comparisons_markdown(findings: Findings) -> str:
    """Every arm against the one that it is held against."""
    seeds = "Seed" if len(findings.seeds) == 1 else "Seeds"
    parts = [f"# Comparisons\n\n{seeds} {', '.join(map(str, findings.seeds))}."]
    parts += [_section(pair) for pair in findings.pairs]
    explained = "\n".join(explanation_lines([pair.comparison for pair in findings.pairs]))
    parts.append("\n".join(["## How to read this", "", *explained.splitlines()]))
    return "\n\n".join([*parts, made_by(findings.command)])


def comparisons_json(findings: Findings) -> str:
    """The same with unrounded numbers."""
    pairs = [
        {"row": pair.after.name, "against": pair.before.name}
        | json.loads(comparison_json(pair.comparison))
        | {"mean": pair.overall and asdict(pair.overall)}
        for pair in findings.pairs
    ]
    content = {"command": findings.command, "seeds": findings.seeds, "comparisons": pairs}
    return json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def made_by(command: str) -> str:
    """The last line of a generated file."""
    return f"Made by {code(command)}.\n"


def _section(pair: Pair) -> str:
    head = f"## {escape(pair.after.name)} against {escape(pair.before.name)}"
    ruler = ["---", *(["---:"] * (len(HEADINGS) - 1))]
    lines = [list(HEADINGS), ruler, *(cells(row) for row in pair.comparison.rows)]
    said = [*([_overall_line(pair.overall)] if pair.overall else []), *verdict_lines(pair.comparison), *pair.comparison.notes]
    return "\n".join([head, "", *(f"| {' | '.join(line)} |" for line in lines), "", *(f"- {line}" for line in said)])


def _overall_line(overall: Overall) -> str:
    change = [signed(number, DECIMALS) for number in (overall.gain.value, overall.gain.low, overall.gain.high)]
    scores = f"{printed(overall.before, DECIMALS)} before, {printed(overall.after, DECIMALS)} after"
    names = ", ".join(overall.benchmarks)
    found = f"{change[0]} ({change[1]} to {change[2]}), p {probability(overall.p)}"
    return f"Mean of {len(overall.benchmarks)} benchmarks ({names}): {scores}, {found}."


def _mean(results: Sequence[TaskResult]) -> TaskResult:
    """One summary that stands for those of all seeds."""
    counts = {kind: sum(getattr(result, kind) for result in results) for kind in ODD}
    return replace(results[0], score=float(np.mean([result.score for result in results])), **counts)


def _spreads(row: Row) -> dict[str, str]:
    found = {name: results for name, results in row.common().items() if len(results) > 1}
    return {name: f" ± {printed(_deviation(results), results[0].decimals)}" for name, results in found.items()}


def _deviation(results: Sequence[TaskResult]) -> float:
    return float(np.std([result.score for result in results], ddof=1))


def _scores(findings: Findings) -> dict[str, dict[str, list[float]]]:
    return {row.name: {name: [one.score for one in results] for name, results in row.common().items()} for row in findings.rows}
