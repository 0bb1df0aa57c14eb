"""Models as the runner sees them: samples in, answers out, in any order."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from cal_bench.checkpoints import check_folder, processor_fingerprint, weight_files, weights_fingerprint
from cal_bench.errors import UserError
from cal_bench.records import Answer, Identity, Unanswered
from cal_bench.tasks.base import BenchmarkError, Sample
from cal_bench.train import Processing

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

AHEAD = 2  # batches whose pictures are decoded while the model works on an earlier one
LOOK_EVERY = 8  # tokens between two looks for a stop string

T = TypeVar("T")
U = TypeVar("U")


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
class _Batch:
    """Samples that are answered together, and the processor's tensors for them; none when no sample is left."""

    samples: list[Sample]
    unanswered: list[Unanswered]
    inputs: Any


@dataclass(frozen=True)
class _Said:
    """What the model said to one sample; `truncated` if it would have gone on."""

    text: str
    truncated: bool


class HFModel:
    """Any image-text-to-text checkpoint of transformers: greedy, batched, left padded.

    The processor is read at once, so that a folder which cannot answer is refused before anything starts; the weights
    are read at the first sample, so that a finished run needs none. LLaVA checkpoints are shown pictures and prompts as the original
    code makes them; `processing="checkpoint"` leaves that to the processor in the folder, as with every other model.
    """

    def __init__(
        self,
        folder: str | Path,
        batch_size: int = 32,
        device: str | None = None,
        dtype: str | None = None,
        processing: Processing = "original",
    ) -> None:
        import torch

        from cal_bench.systems.llava import as_original
        from cal_bench.systems.register import register

        register()

        self.folder = Path(folder)
        self.batch_size = batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = dtype or ("bfloat16" if self.device.startswith("cuda") else "float32")
        weight_files(self.folder)
        self.processor = _load_processor(self.folder)
        self.processing = "original" if processing == "original" and as_original(self.processor) else "checkpoint"
        self._model: Any = None

    def identity(self) -> Identity:
        """Whose answers these will be."""
        processor = f"{self.processing} {processor_fingerprint(self.folder)}"
        return Identity(str(self.folder), weights_fingerprint(self.folder), processor, self.dtype)

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer | Unanswered]:
        """One reply to each sample; a sample whose pictures cannot be read is Unanswered, the others of its batch go on."""
        if samples and self._model is None:
            self._model = _load_weights(self.folder, self.device, self.dtype)
            self._model.generation_config = _greedy(self._model.generation_config, self.processor.tokenizer)
        for batch in _ahead(self._prepare, batches(samples, self.batch_size)):
            yield from batch.unanswered
            if batch.samples:
                begun = time.monotonic()
                said = self._generate(batch)
                seconds = (time.monotonic() - begun) / len(said)
                for sample, reply in zip(batch.samples, said, strict=True):
                    yield Answer(sample.id, sample.prompt_hash, reply.text, seconds, reply.truncated)

    def _prepare(self, samples: Sequence[Sample]) -> _Batch:
        """Decode the pictures and make the tensors; runs in a thread of its own."""
        readable, conversations, unanswered = [], [], []
        for sample in samples:
            try:
                conversations.append(_conversation(sample.load_images(), sample.prompt))
                readable.append(sample)
            except BenchmarkError as error:
                unanswered.append(Unanswered(sample.id, str(error)))
        inputs = self._tensors(conversations) if readable else None
        return _Batch(readable, unanswered, inputs)

    def _tensors(self, conversations: list[list[dict[str, Any]]]) -> Any:
        return self.processor.apply_chat_template(
            conversations,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True, "padding_side": "left"},
        )

    def _generate(self, batch: _Batch) -> list[_Said]:
        import torch

        generation = batch.samples[0].generation
        inputs = batch.inputs.to(self.device, dtype=getattr(torch, self.dtype))
        prompt_length = inputs["input_ids"].shape[1]
        stops = [_StopStrings(self.processor.tokenizer, generation.until, prompt_length)] if generation.until else []
        with torch.inference_mode():
            tokens = self._model.generate(**inputs, max_new_tokens=generation.max_new_tokens, stopping_criteria=stops)
        written = tokens[:, prompt_length:]
        texts = self.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        # A row that ended before the others of its batch is filled up with the padding token.
        ends = {self.processor.tokenizer.pad_token_id, *_listed(self._model.generation_config.eos_token_id)}
        full = written.shape[1] == generation.max_new_tokens
        unended = [full and last not in ends for last in written[:, -1].tolist()]
        stopped = [any(stop in text for stop in generation.until) for text in texts]
        return [_Said(cut(text, generation.until), late and not done) for text, late, done in zip(texts, unended, stopped, strict=True)]


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


def batches(samples: Sequence[Sample], size: int) -> Iterator[list[Sample]]:
    """Samples that share their generation settings, longest prompts first: little padding, and memory runs out early or never."""

    def settings(sample: Sample) -> tuple[int, tuple[str, ...]]:
        return sample.generation.max_new_tokens, sample.generation.until

    ordered = sorted(samples, key=lambda sample: (settings(sample), -len(sample.prompt), sample.id))
    for _, group in groupby(ordered, key=settings):
        same = list(group)
        yield from (same[start : start + size] for start in range(0, len(same), size))


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
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.jinja", "*.safetensors", "*.txt", "*.model"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"There is no model folder '{name}', and it could not be fetched from the Hugging Face hub: {reason} "
            "Give the folder of a checkpoint saved by transformers, or a hub name such as llava-hf/llava-1.5-7b-hf."
        ) from error


def _listed(token: int | list[int] | None) -> list[int]:
    return token if isinstance(token, list) else [] if token is None else [token]


def _conversation(images: list[Image], prompt: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image} for image in images]
    return [{"role": "user", "content": [*content, {"type": "text", "text": prompt}]}]


def _ahead(prepare: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
    """`prepare` of each item, in order, a few items ahead of the reader in a thread."""
    waiting: deque[Future[U]] = deque()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="pictures") as worker:
        try:
            for item in items:
                waiting.append(worker.submit(prepare, item))
                if len(waiting) > AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            worker.shutdown(wait=False, cancel_futures=True)


def _load_processor(folder: Path) -> Any:
    from transformers import AutoConfig, AutoProcessor, ProcessorMixin
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:
        raise UserError(f"The config.json of {folder} is not one that transformers knows: {error}") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(f"{folder} holds a model of type '{config.model_type}', which does not answer questions about pictures.")
    missing = UserError(
        f"{folder} has no processor (image processor and tokenizer). Save it beside the weights: "
        "AutoProcessor.from_pretrained(<base model>).save_pretrained(<folder>)."
    )
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:
        raise missing from error
    if not isinstance(processor, ProcessorMixin):  # without a processor's config transformers gives the bare tokenizer
        raise missing
    if not processor.chat_template:
        raise UserError(
            f"{folder} has no chat template, so it is not known how it was trained to be asked. "
            "Put the template of its training into chat_template.jinja in that folder."
        )
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def _load_weights(folder: Path, device: str, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it, so that its processes share the cores
        torch.set_num_threads(os.cpu_count() or 1)
    logging.disable_progress_bar()
    model, told = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"The checkpoint {folder} lacks {len(missing)} of its weights, the first is {missing[0]}. Copy or train it again.")
    return model.to(device).eval()


def _greedy(own: Any, tokenizer: Any) -> Any:
    """Greedy for every model: of a checkpoint's own settings, such as sampling or a repetition penalty, only its end token counts."""
    from transformers import GenerationConfig

    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    return GenerationConfig(
        do_sample=False, num_beams=1, bos_token_id=own.bos_token_id, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
    )
