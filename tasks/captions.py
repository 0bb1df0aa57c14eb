"""CIDEr per caption, with the reference implementation and its Java tokenizer; without Java with one of our own, approximately."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .base import Benchmark, BenchmarkError

JAVA_HINT = "CIDEr's tokenizer needs Java on the PATH; on Debian or Ubuntu: apt-get install default-jre-headless"


def check_java(benchmarks: Iterable[Benchmark]) -> list[str]:
    """The names of those benchmarks that can be scored only approximately because Java is missing."""
    return [] if shutil.which("java") else [benchmark.name for benchmark in benchmarks if benchmark.needs_java]


def cider(results: Sequence[Mapping[str, Any]]) -> list[float]:
    """CIDEr of each caption within this set, 0 to 10; the corpus score is the mean."""
    from pycocoevalcap.cider.cider import Cider

    split = java_words if shutil.which("java") else own_words
    references = split([[one_line(caption) for caption in result["answer"]] for result in results])
    captions = split([[one_line(result["pred"])] for result in results])
    _, scores = Cider().compute_score(references, captions)
    return [float(score) for score in scores]


def one_line(caption: str) -> str:
    """The caption without line breaks of any kind and without broken surrogates.

    The tokenizer reads a line per caption, and Java breaks lines at more characters than the one that its wrapper replaces:
    a single one shifts every later caption by one.
    """
    return " ".join(caption.encode("utf-8", "replace").decode("utf-8").splitlines())


def own_words(captions: list[list[str]]) -> dict[int, list[str]]:
    """The words of each caption, nearly as Java splits them."""
    from .ptb import words

    return dict(enumerate([words(text) for text in texts] for texts in captions))


def java_words(captions: list[list[str]]) -> dict[int, list[str]]:
    """The words of each caption, as pycocoevalcap's PTBTokenizer splits them.

    Its class is not called: it writes into site-packages, lets Java talk on the terminal, and does not notice when Java fails.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer

    jar = ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-cp", jar, "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "captions.txt"
        file.write_bytes("\n".join(itertools.chain(*captions)).encode())
        done = subprocess.run([*command, str(file)], cwd=Path(ptbtokenizer.__file__).parent, capture_output=True)
    if done.returncode:
        raise BenchmarkError(f"Java could not tokenize the captions: {done.stderr.decode(errors='replace').strip()[-300:]}. {JAVA_HINT}.")
    lines = iter(done.stdout.decode().split("\n"))
    spoken = [[_without_punctuation(next(lines), ptbtokenizer.PUNCTUATIONS) for _ in texts] for texts in captions]
    return dict(enumerate(spoken))


def _without_punctuation(line: str, punctuation: list[str]) -> str:
    return " ".join(word for word in line.rstrip().split(" ") if word not in punctuation)
