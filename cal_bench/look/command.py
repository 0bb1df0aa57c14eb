"""The bodies of `cal-bench look WHAT`: open what is named, draw, write, and give back the lines to print."""

import json
import random
import shlex
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cal_bench.progress import say
from cal_bench.runs import explained, write_atomically

if TYPE_CHECKING:
    from cal_bench.trainer_plugin.data import ConversationDataset

    from .opened import Opened, Talks

T = TypeVar("T")

# Flags that decide what is drawn, as they go into captions.
FLAGS = ("data", "images", "template", "sample", "count", "scale")


def look(arguments: Namespace) -> list[str]:
    """Draw one thing. UserError or CALError for what cannot be drawn, before anything is written."""
    out = Path(arguments.out)
    drawn = {"heatmap": _heatmap, "delta": _delta, "attention": _attention, "words": _words, "answers": _answers, "labels": _labels}
    return drawn[arguments.what](arguments, out)


def typed(arguments: Namespace) -> str:
    """The command for a caption, without folders of this machine, which a reader elsewhere doesn't have."""
    words = ["cal-bench", "look", arguments.what, *map(_shown, arguments.models)]
    for flag in FLAGS:
        value = getattr(arguments, flag, None)
        words += [] if value is None else [f"--{flag}", _shown(str(value))]
    return shlex.join(words)


def _shown(word: str) -> str:
    return "/".join(Path(word).parts[-2:]) if Path(word).is_absolute() else word


def _heatmap(arguments: Namespace, out: Path) -> list[str]:
    from cal_bench.figure import save

    from .heatmap import heatmap_caption, heatmap_figure, heatmap_html, read_sample

    (sample,) = _of_each_model(arguments, read_sample)
    command = typed(arguments)
    _make(out)
    write_atomically(out / "heatmap.html", heatmap_html(sample, command))
    save(heatmap_figure(sample), out / "heatmap.png", heatmap_caption(sample, command))
    return [str(out / "heatmap.html"), str(out / "heatmap.png")]


def _of_each_model(arguments: Namespace, work: "Callable[[Opened, ConversationDataset, int], T]") -> list[T]:
    """What `work` makes of the sample with each model, of which one at a time is in memory."""
    from .opened import chosen, open_model, read_talks, short_names

    def one(name: str, called: str) -> T:
        opened = open_model(name, called)
        dataset = read_talks(opened, _talks(arguments))
        return work(opened, dataset, chosen(dataset, arguments.sample))

    return [one(name, called) for name, called in short_names(arguments.models).items()]


def _delta(arguments: Namespace, out: Path) -> list[str]:
    from cal_bench.figure import save

    from .deltas import Deltas, deltas_of
    from .distribution import distribution_caption, distribution_figure, lines, summary
    from .opened import open_model, pictured, read_talks, short_names

    def measured(name: str, called: str) -> Deltas:
        say(f"Measuring {name}")
        opened = open_model(name, called)
        dataset = read_talks(opened, _talks(arguments))
        bearing = pictured(dataset)
        drawn = random.Random(0).sample(bearing, min(arguments.count or 100, len(bearing)))
        return deltas_of(opened, dataset, sorted(drawn))

    found = {called: measured(name, called) for name, called in short_names(arguments.models).items()}
    numbers, command = summary(found), typed(arguments)
    _make(out)
    write_atomically(out / "delta.json", _json({"command": command, "models": numbers}))
    save(distribution_figure(found), out / "delta.png", distribution_caption(numbers, command))
    return [*lines(numbers), str(out / "delta.png")]


def _attention(arguments: Namespace, out: Path) -> list[str]:
    from cal_bench.figure import save

    from .attention import attention_caption, attention_figure, attention_lines, attention_of

    maps = _of_each_model(arguments, attention_of)
    _make(out)
    save(attention_figure(maps), out / "attention.png", attention_caption(maps, typed(arguments)))
    return [*attention_lines(maps), str(out / "attention.png")]


def _words(arguments: Namespace, out: Path) -> list[str]:
    from cal_bench.figure import save

    from .words import words_caption, words_figure, words_of

    found = _of_each_model(arguments, words_of)
    _make(out)
    save(words_figure(found), out / "words.png", words_caption(found, typed(arguments)))
    return [f"{one.model}: mean cosine {one.nearness.mean():.3f} over {len(one.words)} patches" for one in found] + [str(out / "words.png")]


def _answers(arguments: Namespace, out: Path) -> list[str]:
    from .answers import answers_markdown

    text = answers_markdown(arguments.models, arguments.data, arguments.count or 2, out, typed(arguments))
    _make(out)
    write_atomically(out / "answers.md", text)
    return [str(out / "answers.md")]


def _labels(arguments: Namespace, out: Path) -> list[str]:
    from cal_bench.figure import save

    from .labels import labels_caption, labels_figure, lines
    from .opened import short_names

    moments = {called: _moments(name, called, arguments) for name, called in short_names(arguments.models).items()}
    command = typed(arguments)
    _make(out)
    write_atomically(out / "labels.json", _json({"command": command, "models": moments}))
    save(labels_figure(moments), out / "labels.png", labels_caption(moments, command))
    return [*lines(moments), str(out / "labels.png")]


def _moments(name: str, called: str, arguments: Namespace) -> list[dict[str, Any]]:
    """What was measured while a folder was trained, or else what it shows now."""
    from cal_bench.label_check import LABELS, check_labels
    from cal_bench.train import RECORD
    from cal_bench.train_log import read_log

    from .held_out import Wanted
    from .opened import open_model

    asked = any(getattr(arguments, flag) is not None for flag in ("count", "template", "scale"))
    if not asked and (logged := read_log(Path(name) / LABELS)):
        return logged
    say(f"Measuring {name}{'' if asked else ', which was not trained with label_check'}")
    record = Path(name) / RECORD
    steps = json.loads(record.read_text(encoding="utf-8")).get("steps", 0) if record.is_file() else 0
    opened = open_model(name, called)
    wanted = Wanted(arguments.count or Wanted.count, arguments.template or opened.template, arguments.scale or Wanted.scale)
    return [{"step": steps, **check_labels(opened, wanted)}]


def _talks(arguments: Namespace) -> "Talks":
    from .opened import Talks

    return Talks(Path(arguments.data), Path(arguments.images), arguments.template)


def _make(out: Path) -> None:
    with explained(out):
        out.mkdir(parents=True, exist_ok=True)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1) + "\n"
