"""Does it change an answer how many samples are answered at once? Seen on a checkpoint of the user's, in its precision, on this device."""

import io
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cal_bench.doctor import Finding
from cal_bench.errors import UserError
from cal_bench.miniworld.bench import bench_rows
from cal_bench.models import HFModel, checkpoint_folder
from cal_bench.progress import say
from cal_bench.records import Unanswered
from cal_bench.tasks import BENCHMARKS, open_task
from cal_bench.tasks.base import Generation, Sample

SIZES = (1, 7, 32)
SAMPLES = 96
# One for all, so that the largest batch is reached.
_GENERATION = Generation(32, ())
_SHORT = "\nAnswer the question using a single word or phrase."
_ASKED = {"chartqa": _SHORT, "docvqa": _SHORT, "scienceqa_img": "", "coco_cap": "", "pope": _SHORT}
# Widths and heights: pictures of many shapes make prompts of many lengths where a system cuts them into tiles.
_SHAPES = ((336, 336), (504, 336), (336, 672), (672, 336), (300, 900), (640, 480))
_FIRST_SCENE = 990_000_000


@dataclass(frozen=True)
class Flip:
    """An answer that another batch size changed."""

    sample: int
    alone: str
    together: str


@dataclass(frozen=True)
class BatchCheck:
    """How many samples were answered, in which precision and where; and for each batch size what differs from one at a time."""

    samples: int
    dtype: str
    device: str
    flips: Mapping[int, tuple[Flip, ...]]

    @property
    def findings(self) -> list[Finding]:
        """For people, with what it means."""
        told = [Finding("samples", f"{self.samples}, in {self.dtype} on {self.device}, one at a time and in batches")]
        for size, flips in self.flips.items():
            shown = f", such as {_shown(flips[0].alone)}, which became {_shown(flips[0].together)}" if flips else ""
            told.append(Finding(f"batch of {size}", f"{len(flips)} of {self.samples} answers differ{shown}"))
        return [*told, self._meaning()]

    def _meaning(self) -> Finding:
        if not any(self.flips.values()):
            return Finding("meaning", "no batch size changes an answer: scores do not depend on --batch-size")
        if self.dtype == "float32":
            remedy = "evaluate this model with --batch-size 1, and report it: padding or positions are not what it was trained with"
            return Finding("meaning", "rounding does not do this in float32: answers depend on what else is in the batch", remedy)
        told = (
            f"rounding in {self.dtype} decides between words that are nearly as likely: compare models at one --batch-size. "
            "That it is rounding, and no mistake, is seen where --dtype float32 shows no difference"
        )
        return Finding("meaning", told)


def check_folder(name: str, data: str | None, dtype: str | None) -> list[Finding]:
    """The check on a checkpoint folder, or one of the hub; without `data` on drawn pictures, without `dtype` in the one that eval takes."""
    model = HFModel(checkpoint_folder(name), dtype=dtype)
    return batch_check(model, samples_of(data) if data else drawn_samples()).findings


def batch_check(model: HFModel, samples: Sequence[Sample], sizes: Sequence[int] = SIZES) -> BatchCheck:
    """Answer the samples in batches of each size, and hold the answers against those of the first."""
    answers: dict[int, dict[int, str]] = {}
    for size in sizes:
        say(f"Answering {len(samples)} samples in batches of {size}")
        model.batch_size = size
        answers[size] = _answers(model, samples)
    alone = answers[sizes[0]]
    flips = {
        size: tuple(Flip(id, text, answers[size][id]) for id, text in alone.items() if answers[size][id] != text) for size in sizes[1:]
    }
    return BatchCheck(len(samples), model.dtype, model.device, flips)


def drawn_samples(count: int = SAMPLES) -> list[Sample]:
    """Questions on pictures of the miniature world, in many shapes."""
    stems = list(_ASKED)
    return [_drawn(number, stems[number % len(stems)]) for number in range(count)]


def samples_of(data: str, count: int = SAMPLES) -> list[Sample]:
    """Questions of the benchmarks in a folder, about as many of each; UserError where it holds none."""
    here = [benchmark for benchmark in BENCHMARKS if any((Path(data) / f"{benchmark.file}{end}").exists() for end in (".parquet", ""))]
    if not here:
        raise UserError(
            f"{data} holds no benchmark. Expected files such as {BENCHMARKS[0].file}.parquet. Without --data pictures are drawn."
        )
    each = -(-count // len(here))
    found = [sample for benchmark in here for sample in open_task(benchmark, data).samples(each)]
    random.Random(0).shuffle(found)
    return [replace(sample, id=number, generation=_GENERATION) for number, sample in enumerate(found[:count])]


def _drawn(number: int, stem: str) -> Sample:
    from PIL import Image

    row = bench_rows(stem, _FIRST_SCENE + number, 1)[0]
    picture = Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB").resize(_SHAPES[number % len(_SHAPES)])
    return Sample(number, row["question"] + _ASKED[stem], lambda: [picture], _GENERATION, str(number), None)


def _answers(model: HFModel, samples: Sequence[Sample]) -> dict[int, str]:
    texts = {}
    for reply in model.answer(samples):
        if isinstance(reply, Unanswered):
            raise UserError(f"Sample {reply.id} cannot be asked: {reply.reason}")
        texts[reply.id] = reply.text
    return dict(sorted(texts.items()))


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}…")
