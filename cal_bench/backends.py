"""Any model backend of lmms-eval (vLLM, SGLang, servers, its adapters) as a model that answers our samples."""

import contextlib
import functools
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cal_bench.checkpoints import processor_fingerprint, weights_fingerprint
from cal_bench.errors import UserError, suggest
from cal_bench.models import cut
from cal_bench.records import Answer, Identity, Unanswered
from cal_bench.stopping import unbroken
from cal_bench.tasks.base import BenchmarkError, Sample
from cal_bench.train import Processing

PREFIX = "lmms:"
# Samples handed over at once where nobody says how many: what a stopped command loses at most.
AT_ONCE = 64
# How lmms-eval's backends for servers begin what they give in place of an answer: [LMMS_EVAL_REQUEST_FAILED after 5 retries] …
FAILED = "[LMMS_EVAL_"
# Names of the argument that says which model.
_MODELS = ("pretrained", "model", "model_version", "model_path")
_TASK, _SPLIT = "cal_bench", "test"
_SECRET = re.compile(r"((key|secret|password)s?|token)$", re.IGNORECASE)  # max_new_tokens is none
_LOGIN = re.compile(r"//[^/@\s]*@")


@dataclass(frozen=True)
class Backend:
    """A backend by lmms-eval's name of it, and its arguments as lmms-eval reads them."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def folder(self) -> Path | None:
        """The local checkpoint among the arguments."""
        folders = [Path(value).expanduser() for value in self.arguments.values() if isinstance(value, str)]
        return next((folder for folder in folders if (folder / "config.json").is_file()), None)

    @property
    def run_name(self) -> str:
        """A name for the run folder."""
        named = self.folder or next((Path(str(self.arguments[key])) for key in _MODELS if key in self.arguments), None)
        return f"lmms-{self.name}" + (f"-{named.name}" if named else "")

    def shown(self, folder: bool = True) -> str:
        """Name and arguments in the order of their names, without secrets; the checkpoint's folder only if asked for."""
        told = {name: value for name, value in self.arguments.items() if folder or Path(str(value)).expanduser() != self.folder}
        return self.harmless(f"{PREFIX}{self.name} {','.join(f'{name}={value}' for name, value in sorted(told.items()))}".rstrip())

    def harmless(self, text: str) -> str:
        """A text without the secrets among the arguments."""
        secrets = [str(value) for name, value in self.arguments.items() if _SECRET.search(name) and str(value)]
        return functools.reduce(lambda left, secret: left.replace(secret, "…"), secrets, _LOGIN.sub("//", text))

    def identity(self) -> Identity:
        """Whose answers these will be: of the weights where a local folder holds them, else of the name and arguments."""
        asked = self.shown(folder=False)
        if self.folder is None:
            return Identity(self.shown(), f"not known: {asked}", asked)
        return Identity(self.shown(), weights_fingerprint(self.folder), f"{asked} {processor_fingerprint(self.folder)}")


def read_backend(name: str, arguments: str) -> Backend:
    """The backend in `lmms:NAME` and `name=value,name=value`; UserError where they are none."""
    from lmms_eval.models import list_available_models
    from lmms_eval.utils import simple_parse_args_string

    if not name.startswith(PREFIX):
        raise UserError(f"There is no backend '{name}'. Expected {PREFIX}NAME with a model backend of lmms-eval, such as {PREFIX}vllm.")
    known = list_available_models(include_aliases=True)
    if (own := name.removeprefix(PREFIX)) not in known:
        raise UserError(f"lmms-eval has no model backend '{own}'.{suggest(own, known)} Type lmms-eval models to see all {len(known)}.")
    try:
        return Backend(own, simple_parse_args_string(arguments))
    except ValueError as error:
        raise UserError("--model-args: expected name=value,name=value, as lmms-eval reads them. One of yours has no value.") from error


class LmmsModel:
    """A backend that answers. It is started at the first sample, so that a finished run needs none."""

    processing: Processing = "checkpoint"  # pictures and prompts are made by the backend

    def __init__(self, backend: Backend, batch_size: int | None = None) -> None:
        self.backend = backend
        self.batch_size = batch_size
        self._started: Any = None

    def identity(self) -> Identity:
        """Whose answers these will be."""
        return self.backend.identity()

    def answer(self, samples: Sequence[Sample]) -> Iterator[Answer | Unanswered]:
        """One reply to each sample, `batch_size` samples at a time; a sample whose pictures cannot be read is Unanswered."""
        if samples and self._started is None:
            self._started = _start(self.backend, self.batch_size)
        size = self.batch_size or AT_ONCE
        for first in range(0, len(samples), size):
            shown, unanswered = _load(samples[first : first + size])
            yield from unanswered
            if shown:
                with unbroken():
                    yield from self._ask(shown)

    def _ask(self, shown: Sequence[tuple[Sample, list[Any]]]) -> Iterator[Answer | Unanswered]:
        from lmms_eval.api.instance import unwrap_generation_output

        begun = time.monotonic()
        self._started.task_dict = {_TASK: {_SPLIT: dict(enumerate(pictures for _, pictures in shown))}}
        requests = [_request(place, sample, self._started.is_simple) for place, (sample, _) in enumerate(shown)]
        with _no_bars():
            said = self._started.generate_until(requests)
        if len(said) != len(shown):
            raise UserError(f"The backend {self.backend.name} gave {len(said)} answers to {len(shown)} samples. It cannot be used.")
        seconds = (time.monotonic() - begun) / len(shown)
        for (sample, _), output in zip(shown, said, strict=True):
            text, counts = unwrap_generation_output(output)
            if reason := failure(text):
                yield Unanswered(sample.id, reason)
                continue
            written = counts.output_tokens if counts else None
            late = written is not None and written >= sample.generation.max_new_tokens
            yield Answer(sample.id, sample.prompt_hash, cut(text, sample.generation.until), seconds, late)


def failure(text: Any) -> str:
    """What went wrong, where a backend gives that in place of an answer, or nothing at all; empty for an answer."""
    if not isinstance(text, str):
        return f"the backend gave {text!r} in place of an answer"
    return text if text.startswith(FAILED) else ""


def _load(samples: Sequence[Sample]) -> tuple[list[tuple[Sample, list[Any]]], list[Unanswered]]:
    """The samples with their pictures, and those whose pictures cannot be read."""
    shown, unanswered = [], []
    for sample in samples:
        try:
            shown.append((sample, sample.load_images()))
        except BenchmarkError as error:
            unanswered.append(Unanswered(sample.id, str(error)))
    return shown, unanswered


def _request(place: int, sample: Sample, is_simple: bool) -> Any:
    """What lmms-eval's evaluator hands to a backend; the row of the data is the list of the sample's pictures."""
    from lmms_eval.api.instance import Instance

    settings = {
        "max_new_tokens": sample.generation.max_new_tokens,
        "until": list(sample.generation.until),
        "do_sample": False,
        "temperature": 0,
        "num_beams": 1,
    }

    def messages(pictures: list[Any]) -> list[dict[str, Any]]:
        content = [{"type": "image", "url": picture} for picture in pictures]
        return [{"role": "user", "content": [*content, {"type": "text", "text": sample.prompt}]}]

    simple = (sample.prompt, settings, lambda pictures: pictures, place, _TASK, _SPLIT)
    chat = (sample.prompt, messages, settings, place, _TASK, _SPLIT)
    metadata = {"task": _TASK, "doc_id": place, "repeats": 1}
    return Instance("generate_until", simple if is_simple else chat, place, metadata)


def _start(backend: Backend, batch_size: int | None) -> Any:
    from lmms_eval.models import get_model

    sizes = {} if batch_size is None or "batch_size" in backend.arguments else {"batch_size": batch_size}
    try:
        return get_model(backend.name)(**backend.arguments, **sizes)
    except (ImportError, TypeError, ValueError, AssertionError, OSError) as error:
        reason = backend.harmless(f"{type(error).__name__}: {error}".strip().splitlines()[0])
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        install = f"pip install {missing}, or as its own pages say" if missing else "its own pages say how"
        raise UserError(
            f"lmms-eval cannot start {backend.shown()}: {reason} Look at the names in --model-args, and whether what the backend needs "
            f"is installed ({install})."
        ) from error


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Backends draw a bar of their own for every call."""
    from tqdm import tqdm  # type: ignore[import-untyped]

    own = tqdm.__init__
    tqdm.__init__ = functools.partialmethod(own, disable=True)
    try:
        yield
    finally:
        tqdm.__init__ = own
