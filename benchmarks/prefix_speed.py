"""How much faster several questions to a picture are answered when the picture is read once.

    python -m benchmarks.prefix_speed                                       # the untrained miniature LLaVA-1.5
    python -m benchmarks.prefix_speed --system llava-next
    python -m benchmarks.prefix_speed --device cuda --dtype bfloat16 --shape llava-1.5-7b

POPE's questions to drawn pictures, each picture asked as many of them as a row says and answered in four tokens; the tower sees it
once in both cases. With and without shared beginnings take turns. POPE itself has 18 questions to a picture, DocVQA four to a page, MME
and ChartQA about two.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.eval_speed import SHAPES, Timed, batched, drawn, random_checkpoint, timed
from cal_bench.miniworld import assemble
from cal_bench.miniworld.base import SYSTEMS
from cal_bench.models import HFModel
from cal_bench.tasks import Sample, get, open_task
from cal_bench.tasks.base import Generation

QUESTIONS = (1, 2, 4, 18)
SHORT = Generation(4, ())


def asked(samples: list[Sample], questions: int, count: int) -> list[Sample]:
    """So many samples, of which so many in a row are about the same picture."""
    shown = [samples[number // questions % len(samples)] for number in range(count)]
    return [
        replace(picture, id=number, prompt=samples[number % len(samples)].prompt, cluster=str(number // questions), generation=SHORT)
        for number, picture in enumerate(shown)
    ]


def compare(model: HFModel, samples: list[Sample], rounds: int) -> tuple[Timed, Timed]:
    """The faster of a few turns of each, without and with shared beginnings."""
    turns: dict[bool, list[Timed]] = {False: [], True: []}
    for _ in range(rounds):
        for shared, done in turns.items():
            model._prefixes.possible = shared
            done.append(timed(batched(model, samples)))
    whole, ours = (min(turns[shared], key=lambda turn: turn.seconds) for shared in turns)
    return whole, ours


def main() -> None:
    arguments = parsed()
    with tempfile.TemporaryDirectory() as passing:
        folder = Path(passing, "model")
        if arguments.shape:
            random_checkpoint(arguments.shape, arguments.dtype, arguments.device, folder)
        else:
            assemble(folder, arguments.system)
        model = HFModel(folder, arguments.batch_size, arguments.device, arguments.dtype)
        samples = open_task(get("pope"), drawn(Path(passing, "data"), arguments.samples)).samples()
        list(model.answer(samples[:4]))  # reads the weights
        print(f"{arguments.shape or arguments.system} on {model.device} in {model.dtype}, {torch.get_num_threads()} threads: samples/s")
        print(f"{'questions to a picture':<24} {'read anew':>11} {'read once':>11} {'ratio':>7}  answers that differ")
        for questions in QUESTIONS:
            whole, ours = compare(model, put := asked(samples, questions, arguments.samples), arguments.rounds)
            differ = sum(whole.answers[sample.id] != ours.answers[sample.id] for sample in put)
            rates = [len(put) / turn.seconds for turn in (whole, ours)]
            print(f"{questions:<24} {rates[0]:>11.1f} {rates[1]:>11.1f} {rates[1] / rates[0]:>6.2f}x  {differ}", flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--system", choices=sorted(SYSTEMS), default="llava-1.5")
    parser.add_argument("--shape", choices=SHAPES, help="random weights in this size instead")
    parser.add_argument("--samples", type=int, default=288)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    return parser.parse_args()


if __name__ == "__main__":
    main()
