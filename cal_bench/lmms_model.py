"""Our model for lmms-eval: `lmms-eval --model cal_hf --model_args pretrained=FOLDER`."""

import hashlib
from collections.abc import Sequence
from typing import get_args

from lmms_eval.api.instance import GenerationResult, Instance
from lmms_eval.api.model import lmms

from cal_bench.errors import UserError
from cal_bench.models import HFModel, checkpoint_folder
from cal_bench.records import Unanswered
from cal_bench.tasks import BENCHMARKS
from cal_bench.tasks.base import Generation, Sample
from cal_bench.train import Processing

# Where neither the task nor the benchmark sets a bound; the adapters of lmms-eval have the same.
LONGEST = 1024


class CalHF(lmms):
    """Any image-text-to-text checkpoint, answered as `cal-bench eval` answers: batched, greedy, with the original pictures and prompts.

    `processing` is that of `cal-bench eval`. An answer that cannot be made is an error here: lmms-eval would score an empty one.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        processing: Processing = "original",
    ) -> None:
        super().__init__()
        if processing not in get_args(Processing):
            raise UserError(f"processing={processing}: expected {' or '.join(get_args(Processing))}")
        size = int(str(batch_size)) if str(batch_size).isdecimal() else None  # "auto"
        self.answering = HFModel(checkpoint_folder(pretrained), size, device, dtype, processing)
        self.device = self.answering.device

    def generate_until(self, requests: list[Instance]) -> list[GenerationResult]:
        """The answers in the order of the requests."""
        samples = [self._sample(place, request) for place, request in enumerate(requests)]
        texts: dict[int, str] = {}
        for reply in self.answering.answer(samples):
            if isinstance(reply, Unanswered):
                raise UserError(f"{requests[reply.id].args[4]}, sample {requests[reply.id].args[3]}: {reply.reason}")
            texts[reply.id] = reply.text
        return [GenerationResult(texts[place]) for place in range(len(requests))]

    def _sample(self, place: int, request: Instance) -> Sample:
        prompt, settings, pictures_of, id, task, split = request.args
        text = prompt.replace("<image>\n", "").replace("<image>", "")
        generation = Generation(settings.get("max_new_tokens") or _bound(task), _listed(settings.get("until")))
        return Sample(
            id=place,
            prompt=text,
            load_images=lambda: pictures_of(self.task_dict[task][split][id]),
            generation=generation,
            prompt_hash=hashlib.sha256(text.encode()).hexdigest()[:16],
            cluster=None,
        )

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Not offered: none of the benchmarks asks for it."""
        raise NotImplementedError("cal_hf answers in words (generate_until) and gives no likelihoods")

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        """Not offered: none of the benchmarks asks for it."""
        raise NotImplementedError("cal_hf answers in one round (generate_until)")


def _bound(task: str) -> int:
    """The longest answer to a task that sets no bound, in tokens."""
    own = {benchmark.lmms_task: benchmark.max_new_tokens for benchmark in BENCHMARKS}
    return own.get(task) or LONGEST


def _listed(until: str | Sequence[str] | None) -> tuple[str, ...]:
    return (until,) if isinstance(until, str) else tuple(until or ())
