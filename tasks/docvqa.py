"""DocVQA: questions about scanned documents.

Paper   https://arxiv.org/abs/2007.00398
Split   validation, 5,349 questions; the test answers are not public
Score   ANLS: one minus the edit distance to the nearest expected answer, 0 below one half
Note    lmms-eval scores as the challenge server does, which keeps a similarity of exactly one half and counts white space in the length.
        `official_anls` is that rule on the answer with the white space around it, `defined_anls` the paper's definition, which does
        neither, `package_anls` what the `anls` package on PyPI gives
"""

from collections.abc import Callable, Sequence

from .base import Benchmark, Marked, mean


def other_rules(marks: Sequence[Marked]) -> dict[str, float]:
    """The mean similarity under each rule beside lmms-eval's."""
    rules: dict[str, Callable[[Marked], float]] = {"official": by_the_server, "defined": by_definition, "package": by_the_package}
    return {f"{name}_anls": mean([rule(mark) for mark in marks]) for name, rule in rules.items()}


def by_the_server(mark: Marked) -> float:
    """lmms-eval's function, which is the challenge server's, on the answer as it came."""
    from lmms_eval.api.metrics import anls

    return float(anls(references=mark.row["answers"], predictions=[mark.text])["anls"])


def by_definition(mark: Marked) -> float:
    """One minus the share of characters to change, case aside, where that share is under one half."""
    from lmms_eval.api.metrics import levenshtein_distance

    said = mark.answer.lower()
    shares = []
    for answer in mark.row["answers"]:
        gold = answer.strip().lower()
        shares.append(levenshtein_distance(gold, said) / max(len(gold), len(said), 1))
    return 1 - min(shares) if min(shares) < 0.5 else 0.0


def by_the_package(mark: Marked) -> float:
    """What the `anls` package makes of the answer."""
    from anls import anls_score

    return float(anls_score(mark.text, mark.row["answers"]))


BENCHMARK = Benchmark(
    name="docvqa",
    column="VQA-Doc",
    lmms_task="cal_docvqa",
    metric="anls",
    scale=100,
    size=5349,
    file="docvqa",
    columns=("image", "question", "answers"),
    lists=("answers",),
    sample_score=lambda result: float(result["anls"]),
    second_rules=other_rules,
)
