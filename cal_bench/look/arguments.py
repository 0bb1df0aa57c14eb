"""What can be typed after `cal-bench look`. Imports nothing heavy."""

import argparse
from collections.abc import Callable
from typing import Any

TEMPLATES = ("v1", "plain", "gemma")
Command = Callable[[argparse.Namespace], int]


def add_look(added: Any, command: Command) -> None:
    """Add the command and what it can draw to the command line's parsers."""
    parser = added.add_parser(
        "look",
        help="the paper's figures, of your checkpoints",
        description="Draw what a figure of the paper shows, of your checkpoints and your data.",
    )
    parser.set_defaults(command=command)
    whats = parser.add_subparsers(title="what to look at", metavar="WHAT", dest="what", required=True)
    _add_heatmap(whats)
    _add_delta(whats)
    _add_two(whats, "attention", "Figure 5: where on the picture the text looks", "Image attention, accumulated over layers, side by side.")
    _add_two(whats, "words", "Figure 6: the word that each patch is nearest to", "Nearest words of each image patch, side by side.")
    _add_answers(whats)
    _add_labels(whats)


def _add_heatmap(whats: Any) -> None:
    parser = _parser(whats, "heatmap", "Figure 2a: what each word owes to the picture", "Delta of each token of a sample, as HTML and PNG.")
    parser.add_argument("models", nargs=1, metavar="MODEL", help="folder or hub name of a checkpoint")
    _add_talks(parser)
    _add_sample(parser)


def _add_delta(whats: Any) -> None:
    parser = _parser(whats, "delta", "Figure 4: how deltas are distributed", "Deltas of the label tokens of N samples, as PNG and JSON.")
    _add_models(parser)
    _add_talks(parser)
    parser.add_argument("--count", type=_positive, metavar="N", help="samples, drawn at random, the same for every model (default: 100)")


def _add_two(whats: Any, name: str, help: str, description: str) -> None:
    parser = _parser(whats, name, help, description)
    _add_models(parser)
    _add_talks(parser)
    _add_sample(parser)


def _add_answers(whats: Any) -> None:
    parser = _parser(
        whats, "answers", "Table 5: the same questions, two answers", "Answers of two runs to the same questions, as markdown."
    )
    parser.add_argument("models", nargs="+", metavar="RUN", help="two run folders, or a study of two arms")
    parser.add_argument("--count", type=_positive, metavar="N", help="samples of each benchmark (default: 2)")
    parser.add_argument("--data", metavar="DIR", help="where the benchmarks lie now (default: where the runs found them)")


def _add_labels(whats: Any) -> None:
    parser = _parser(
        whats,
        "labels",
        "does delta tell visual from invented words?",
        "How well deltas tell label tokens apart, whose truth the miniature world knows. A folder that was trained with label_check is"
        " drawn over its training; any other is measured now.",
    )
    _add_models(parser)
    _add_template(parser)
    parser.add_argument("--count", type=_positive, metavar="N", help="held-out conversations (default: 200)")
    parser.add_argument("--scale", type=_positive, metavar="N", help="side of the pictures in 128 px (default: 1)")


def _parser(whats: Any, name: str, help: str, description: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = whats.add_parser(name, help=help, description=description)
    parser.add_argument("--out", default="results/look", metavar="DIR", help="where the files go (default: results/look)")
    return parser


def _add_models(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders or hub names of checkpoints")


def _add_talks(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, metavar="FILE.json", help="conversations in LLaVA's format")
    parser.add_argument("--images", required=True, metavar="DIR", help="folder of their pictures")
    _add_template(parser)


def _add_template(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--template", choices=TEMPLATES, help="how conversations are written (default: as the checkpoint was trained, or else v1, Vicuna's)"
    )


def _add_sample(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sample", type=_number, metavar="N", help="number of the sample, from 0 (default: the first with a picture)")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of at least 1, got {text}")
    return int(text)


def _number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number from 0 on, got {text}")
    return int(text)
