"""Models as the runner sees them: samples in, answers out, in any order."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cal_bench.batching import Batches, ahead, groups, reading_threads
from cal_bench.checkpoints import READ, check_folder, processor_fingerprint, weight_files, weights_fingerprint
from cal_bench.errors import UserError
from cal_bench.inputs import Inputs, Reader, continued
from cal_bench.loading import greedy, load_processor, load_weights
from cal_bench.processes import say_once
from cal_bench.records import Answer, Identity, Unanswered
from cal_bench.stopping import unbroken
from cal_bench.tasks.base import Sample
from cal_bench.train import Processing

if TYPE_CHECKING:
    import torch

LOOK_EVERY = 8  # tokens between two looks for a stop string
# Tokens after which answers that go on are put together: few do, and each would hold up a whole batch.
LEGS = (32, 128, 512)
# Samples answered at once where nobody says how many: a GPU that has no room for them says so, a computer stops the process.
ON_GPU, ON_CPU = 64, 16


class Model(Protocol):
    """Anything that can be asked."""

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer | Unanswered]:
        """One reply to each sample, in any order."""


class EchoModel:
    """Answers every prompt with itself, pictures unseen: for trying things out."""

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer | Unanswered]:
        for sample in samples:
            yield Answer(sample.id, sample.prompt_hash, sample.prompt, 0.0)


@dataclass(frozen=True)
class _Said:
    """What the model has said to one sample; it is `done` unless it would go on."""

    tokens: list[int]
    text: str
    done: bool
    seconds: float = 0.0


NOTHING = _Said([], "", done=False)


@dataclass(frozen=True)
class _Leg:
    """Answers of one group of samples up to a `length` in tokens: by sample, what was said `before` and who `goes_on` after it."""

    length: int
    before: Mapping[int, _Said]
    goes_on: dict[int, _Said] = field(default_factory=dict)


class HFModel:
    """Any image-text-to-text checkpoint of transformers: greedy, batched, left padded.

    `batch_size` samples are answered at once (if not given 64 on a GPU, 16 on a CPU), fewer where memory runs out.
    The processor is read at once, so that a folder which cannot answer is refused before anything starts; the weights
    are read at the first sample, so that a finished run needs none. LLaVA checkpoints are shown pictures and prompts as the original
    code makes them; `processing="checkpoint"` leaves that to the processor in the folder, as with every other model.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int | None = None,
        device: str | None = None,
        dtype: str | None = None,
        processing: Processing = "original",
    ) -> None:
        from cal_bench.systems.llava import as_original
        from cal_bench.systems.register import register

        register()

        self.folder = Path(folder)
        self.device = device or _own_device()
        self._on_gpu = self.device.startswith("cuda")
        self.batch_size = batch_size or (ON_GPU if self._on_gpu else ON_CPU)
        self.dtype = dtype or ("bfloat16" if self._on_gpu else "float32")
        weight_files(self.folder)
        self.processor = load_processor(self.folder)
        self.processing: Processing = "original" if processing == "original" and as_original(self.processor) else "checkpoint"
        _check_template(self.processor, self.folder)
        self._model: Any = None
        self._prefixes: Any = None

    def identity(self) -> Identity:
        """Whose answers these will be."""
        processor = f"{self.processing} {processor_fingerprint(self.folder)}"
        return Identity(str(self.folder), weights_fingerprint(self.folder), processor, self.dtype)

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer | Unanswered]:
        """One reply to each sample; a sample whose pictures cannot be read is Unanswered, the others of its batch go on.

        What does not fit into memory is answered in halves, and the group of samples goes on in batches of that size. Answers that are
        longer than most come last, together: they are read once more with what has been written of them.
        """
        if not samples:
            return
        if self._model is None:
            self._load()
        for group in groups(samples, self._reader.length):
            said: dict[int, _Said] = {}
            size = self.batch_size
            for length in self._lengths(group[0].generation.max_new_tokens):
                leg = _Leg(length, said)
                cut_up = Batches(group, size)
                for inputs in ahead(self._reader.read, cut_up, reading_threads(self._on_gpu)):
                    yield from self._replies(inputs, leg, cut_up)
                said, size = leg.goes_on, cut_up.size
                group = [sample for sample in group if sample.id in said]

    def _load(self) -> None:
        from cal_bench.prefixes import Prefixes
        from cal_bench.systems.llava import share_grids

        self._model = load_weights(self.folder, self.device, self.dtype)
        share_grids(self._model, self.processor)
        self._model.generation_config = greedy(self._model.generation_config, self.processor.tokenizer)
        self._reader = Reader(self.processor, self._model.config.model_type)
        self._prefixes = Prefixes(self._model)
        # In an answer it would stand for one picture more when the answer is read again.
        self._image_token = getattr(self._model.config, "image_token_id", None)

    def _lengths(self, longest: int) -> list[int]:
        """Where the legs of an answer end."""
        return [*(length for length in LEGS if length < longest and self._reader.continues), longest]

    def _replies(self, inputs: Inputs, leg: _Leg, cut_up: Batches) -> Iterator[Answer | Unanswered]:
        yield from inputs.unanswered
        if not inputs.samples:
            return
        with unbroken():
            said = self._said_where_it_fits(inputs, leg)
            for sample, reply in zip(inputs.samples, said, strict=False):
                if reply.done or leg.length == sample.generation.max_new_tokens or self._image_token in reply.tokens:
                    yield Answer(sample.id, sample.prompt_hash, reply.text, reply.seconds, truncated=not reply.done)
                else:
                    leg.goes_on[sample.id] = reply
        if not said:
            yield from self._in_halves(inputs.samples, leg, cut_up)

    def _said_where_it_fits(self, inputs: Inputs, leg: _Leg) -> list[_Said]:
        """Nothing where memory runs out, which it gives back."""
        import torch

        try:
            return self._generate(inputs, leg)
        except torch.OutOfMemoryError:
            if len(inputs.samples) == 1:
                raise UserError(
                    f"{self.device} has no room for a single sample of {self.folder} in {self.dtype}. "
                    "Free memory on it, or use a device with more."
                ) from None
        # Outside the except clause: the error holds on to every tensor of the attempt.
        if self._on_gpu:
            torch.cuda.empty_cache()
        return []

    def _in_halves(self, samples: Sequence[Sample], leg: _Leg, cut_up: Batches) -> Iterator[Answer | Unanswered]:
        half = (len(samples) + 1) // 2
        if half < cut_up.size:
            cut_up.size = half
            say_once(f"Not enough memory for {len(samples)} samples at once: going on with {half}")
        for part in (samples[:half], samples[half:]):
            yield from self._replies(self._reader.read(part), leg, cut_up)

    def _generate(self, inputs: Inputs, leg: _Leg) -> list[_Said]:
        import torch

        from cal_bench.features import on_device_of

        start = time.monotonic()
        until = inputs.samples[0].generation.until
        before = [leg.before.get(sample.id, NOTHING) for sample in inputs.samples]
        begun = len(before[0].tokens)  # as many in every row
        prompts = continued(inputs.tensors, [said.tokens for said in before]) if begun else inputs.tensors
        with torch.inference_mode():
            tensors = on_device_of(self._model, prompts)
            if inputs.pictures is not None:
                tensors = self._prefixes.read(tensors, inputs.pictures)
            prompt_length = tensors["input_ids"].shape[1] - begun
            stops = [_StopStrings(self.processor.tokenizer, until, prompt_length)] if until else []
            tokens = self._model.generate(**tensors, max_new_tokens=leg.length - begun, stopping_criteria=stops)
        spent = (time.monotonic() - start) / len(inputs.samples)
        said = self._read(tokens[:, prompt_length:], until)
        return [replace(now, seconds=then.seconds + spent) for now, then in zip(said, before, strict=True)]

    def _read(self, written: torch.Tensor, until: tuple[str, ...]) -> list[_Said]:
        """The answers in `written` [B, T]."""
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        ends = _listed(self._model.generation_config.eos_token_id)
        rows = written.tolist()
        done = [any(end in row for end in ends) or any(stop in text for stop in until) for row, text in zip(rows, texts, strict=True)]
        return [_Said(row, cut(text, until), over) for row, text, over in zip(rows, texts, done, strict=True)]


class _StopStrings:
    """Ends a row when its answer holds a stop string, without waiting for the rest of its batch.

    transformers' own `stop_strings` prepares a table over the whole vocabulary; a look at the text every few tokens is
    cheaper, and what a row wrote beyond the string is cut off anyway.
    """

    def __init__(self, tokenizer: Any, until: tuple[str, ...], prompt_length: int) -> None:
        self.tokenizer = tokenizer
        self.until = until
        self.prompt_length = prompt_length

    def __call__(self, tokens: torch.Tensor, scores: Any, **unused: Any) -> torch.Tensor:
        """Which rows of `tokens` [B, T] are done, as [B]."""
        import torch

        written = tokens[:, self.prompt_length :]
        if written.shape[1] % LOOK_EVERY:
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        texts = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return torch.tensor([any(stop in text for stop in self.until) for text in texts], device=tokens.device)


def cut(text: str, until: tuple[str, ...]) -> str:
    """The text before the first stop string, without white space around it."""
    ends = [place for stop in until if (place := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def checkpoint_folder(name: str | Path) -> Path:
    """The folder of a checkpoint given as a folder or by its name on the Hugging Face hub (downloaded once)."""
    folder = Path(name)
    is_hub_name = str(name).count("/") == 1 and not str(name).startswith((".", "/", "~"))
    if folder.is_dir() or not is_hub_name:
        check_folder(folder)
        return folder
    return _from_hub(str(name))


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(READ)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"There is no model folder '{name}', and it could not be fetched from the Hugging Face hub: {reason} "
            "Give the folder of a checkpoint saved by transformers, or a hub name such as llava-hf/llava-1.5-7b-hf."
        ) from error


def _check_template(processor: Any, folder: Path) -> None:
    """A UserError for a chat template that has no place for a picture."""
    asked = {"type": "text", "text": "What is it?"}
    written = [
        processor.apply_chat_template([{"role": "user", "content": [*pictures, asked]}], add_generation_prompt=True)
        for pictures in ([{"type": "image"}], [])
    ]
    if written[0] == written[1]:
        raise UserError(
            f"The chat template of {folder} writes nothing where a picture is shown. Put the template of its training into"
            " chat_template.jinja in that folder."
        )


def _own_device() -> str:
    """The GPU of this process, of which there may be several on a machine; without one the CPU."""
    import torch

    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def _listed(token: int | list[int] | None) -> list[int]:
    return token if isinstance(token, list) else [] if token is None else [token]
