"""Batches say what single samples say, for every system; pictures are shared, memory may run out, and nothing is lost."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import GenerationConfig

from cal_bench.errors import UserError
from cal_bench.inputs import CONTINUED, Reader, continued
from cal_bench.models import HFModel
from cal_bench.records import Answer
from cal_bench.systems.anatomy import SYSTEMS
from cal_bench.systems.convert import from_scratch
from cal_bench.tasks.base import Generation, Sample
from tests import vlm_zoo
from tests.parts import OUR_SYSTEM, tiny_parts

ALL = {"llava-1.5": SYSTEMS["llava-1.5"], "llava-next": SYSTEMS["llava-next"], **OUR_SYSTEM}
SIZES = ((40, 30), (28, 28), (20, 75), (64, 31), (90, 40))
WORDS = "What is it ? A red sign . An artificial user chat".split()
SHORT = Generation(8, ())
FAMILY = {"llava-1.5": "llava", "llava-next": "llava_next"}


@pytest.fixture(scope="module")
def systems(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny system, made when it is first asked for; its answers depend on picture and prompt."""
    folder = tmp_path_factory.mktemp("systems")
    parts = tiny_parts(folder / "parts")

    def made(name: str) -> Path:
        if not (folder / name).exists():
            from_scratch(ALL[name], parts, folder / name)
            sharpen(folder / name / "model.safetensors")
        return folder / name

    return made


def sharpen(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(file)
    for name in weights:
        if name.startswith("model.multi_modal_projector") and name.endswith("weight"):
            weights[name] = weights[name] * 20
    save_file(weights, file, {"format": "pt"})


def picture(number: int) -> Image.Image:
    width, height = SIZES[number % len(SIZES)]
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
    return Image.fromarray(pixels.numpy())


def sample(number: int, shows: int | None = None, words: int = 3, load: Callable[[], list[Image.Image]] | None = None) -> Sample:
    shown = number if shows is None else shows
    prompt = " ".join(WORDS[(number + place) % len(WORDS)] for place in range(words))
    return Sample(number, prompt, load or (lambda: [picture(shown)]), SHORT, f"hash-{number}", f"picture {shown}")


def mixed(count: int = 12) -> list[Sample]:
    """Prompts of several lengths; two samples in three show a picture of their own, the others one that is seen before."""
    return [sample(number, shows=number if number % 3 else 0, words=2 + 5 * number % 17) for number in range(count)]


def texts(model: HFModel, samples: list[Sample]) -> dict[int, str]:
    replies = list(model.answer(samples))
    assert len(replies) == len(samples)
    return {reply.id: reply.text for reply in replies if isinstance(reply, Answer)}


@pytest.mark.parametrize("name", list(ALL))
def test_in_float32_every_answer_is_the_same_in_batches_of_1_7_and_32(name: str, systems: Callable[[str], Path]) -> None:
    single, some, many = (texts(HFModel(systems(name), size, "cpu"), mixed()) for size in (1, 7, 32))
    assert single == some == many
    assert len(set(single.values())) > 6, "answers that are all alike would prove nothing"


@pytest.mark.parametrize("name", list(ALL))
def test_shared_pictures_make_the_inputs_that_the_processor_makes_of_all(name: str, systems: Callable[[str], Path]) -> None:
    model = HFModel(systems(name), device="cpu")
    family = FAMILY.get(name, "cal_mgm")
    asked = [*mixed(5), Sample(9, "What is it?", list, SHORT, "", None)]
    ours, whole = Reader(model.processor, family).read(asked), Reader(model.processor, "another").read(asked)
    assert ours.pictures is not None
    assert whole.pictures is None
    rows = [row for own in ours.pictures.shown for row in own]
    tensors = dict(ours.tensors) | {key: value[rows] for key, value in ours.pictures.tensors.items()}
    assert tensors.keys() == whole.tensors.keys()
    for key, value in whole.tensors.items():
        torch.testing.assert_close(tensors[key], value, rtol=0, atol=0)
    assert ours.pictures.shown == [(0,), (1,), (2,), (0,), (3,), ()]


@pytest.mark.parametrize("name", list(ALL))
def test_a_picture_passes_the_towers_once(name: str, systems: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = HFModel(systems(name), 4, "cpu")
    expected = texts(HFModel(systems(name), 1, "cpu"), three := [sample(number, shows=number // 6) for number in range(18)])
    texts(model, [sample(99)])
    seen: list[int] = []
    passes: list[Any] = []
    encode = model._model.get_image_features

    def counted(**tensors: Any) -> Any:
        seen.append(len(tensors["pixel_values"]))
        return encode(**tensors)

    monkeypatch.setattr(model._model, "get_image_features", counted)
    model._model.model.vision_tower.register_forward_pre_hook(lambda *given: passes.append(given))
    assert texts(model, three) == expected
    assert len(passes) == len(seen), "generate itself encodes nothing"
    # Two of the five batches begin with the picture that the one before ended with.
    assert sum(seen) == 3


def test_without_shared_features_the_answers_are_the_same(systems: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    shared = texts(HFModel(systems("llava-next"), 7, "cpu"), mixed())
    monkeypatch.setattr("cal_bench.inputs.ROW_TO_A_PICTURE", ())
    assert texts(HFModel(systems("llava-next"), 7, "cpu"), mixed()) == shared


def test_reading_ahead_changes_no_answer(systems: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    in_turn = texts(HFModel(systems("llava-next"), 3, "cpu"), mixed())
    monkeypatch.setattr("cal_bench.models.reading_threads", lambda on_gpu: 3)
    assert texts(HFModel(systems("llava-next"), 3, "cpu"), mixed()) == in_turn


# Answers that go on


@pytest.mark.parametrize("name", list(ALL))
def test_answers_written_in_legs_are_those_written_at_once(
    name: str, systems: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = HFModel(systems(name), 7, "cpu")
    texts(model, mixed(1))
    monkeypatch.setattr("cal_bench.models.LEGS", ())
    at_once = {reply.id: (reply.text, reply.truncated) for reply in model.answer(mixed())}
    monkeypatch.setattr("cal_bench.models.LEGS", (2, 5, 100))
    calls = Calls(model)
    in_legs = {reply.id: (reply.text, reply.truncated) for reply in model.answer(mixed())}
    assert in_legs == at_once
    assert len(set(at_once.values())) > 6, "answers that are all alike would prove nothing"
    assert [tokens for _, tokens in calls.asked] == [2, 2, 3, 3, 3, 3], "two batches of twelve samples to a leg: of 2, 5 and 8 tokens"


def test_only_answers_that_go_on_are_read_again(loaded: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = Calls(loaded)
    texts(loaded, mixed(8))
    written = at_once.written[0][:, -8:].tolist()
    # The token that one answer begins with ends answers: so this one is over at once.
    end = written[0][0]
    over = sum(end in row[:4] for row in written)
    assert 0 < over < 8
    loaded._model.generation_config.eos_token_id = end
    expected = texts(loaded, mixed(8))
    monkeypatch.setattr("cal_bench.models.LEGS", (4,))
    in_legs = Calls(loaded)
    replies = list(loaded.answer(mixed(8)))
    assert {reply.id: reply.text for reply in replies if isinstance(reply, Answer)} == expected
    assert in_legs.asked == [(8, 4), (8 - over, 4)]


def test_an_answer_that_shows_a_picture_is_not_read_again(loaded: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cal_bench.models.LEGS", (2,))
    generate, image = loaded._model.generate, loaded._model.config.image_token_id

    def showing(**tensors: Any) -> Any:
        written = generate(**tensors)
        written[0, -1] = image
        return written

    monkeypatch.setattr(loaded._model, "generate", showing)
    replies = list(loaded.answer(mixed(3)))
    assert len(replies) == 3
    assert replies[0].truncated


@pytest.mark.parametrize("family", [family for family in vlm_zoo.FAMILIES if family.name in CONTINUED], ids=lambda family: family.name)
def test_a_continued_prompt_gives_the_tokens_that_would_have_followed(family: vlm_zoo.Family) -> None:
    model, batch = family.model().eval(), family.batch(left=True)
    del batch["labels"]
    length = batch["input_ids"].shape[1]
    # No end, and no placeholders in the answer.
    model.generation_config = GenerationConfig(pad_token_id=vlm_zoo.PAD, do_sample=False, suppress_tokens=[5, 6, 7, 8])
    with torch.no_grad():
        whole = model.generate(**batch, max_new_tokens=8)
        resumed = model.generate(**continued(batch, whole[:, length : length + 3].tolist()), max_new_tokens=5)
    assert torch.equal(resumed, whole)


class Calls:
    """Notes of each call of generate how many rows it had, how many tokens it was asked for, and what it gave."""

    def __init__(self, model: HFModel) -> None:
        self.asked: list[tuple[int, int]] = []
        self.written: list[torch.Tensor] = []
        generate = model._model.generate

        def noted(**tensors: Any) -> Any:
            self.asked.append((len(tensors["input_ids"]), tensors["max_new_tokens"]))
            self.written.append(generate(**tensors))
            return self.written[-1]

        model._model.generate = noted


# What fits into memory


class Memory:
    """Room for so many rows: more raise what a GPU raises."""

    def __init__(self, model: HFModel, rows: int) -> None:
        self.tried: list[int] = []
        generate = model._model.generate

        def limited(**tensors: Any) -> Any:
            self.tried.append(len(tensors["input_ids"]))
            if self.tried[-1] > rows:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return generate(**tensors)

        model._model.generate = limited


@pytest.fixture
def loaded(systems: Callable[[str], Path]) -> HFModel:
    model = HFModel(systems("llava-1.5"), 8, "cpu")
    texts(model, mixed(1))
    return model


def test_what_does_not_fit_is_answered_in_halves_and_the_group_goes_on_so(loaded: HFModel, capsys: pytest.CaptureFixture[str]) -> None:
    asked = mixed(24)
    expected = texts(loaded, asked)
    memory = Memory(loaded, rows=3)
    assert texts(loaded, asked) == expected
    assert memory.tried.count(8) <= 3, "only batches that were made before may be tried as large again"
    assert memory.tried[-1] == 2
    said = capsys.readouterr().err
    assert said.count("Not enough memory") == 2
    assert "Not enough memory for 8 samples at once: going on with 4" in said
    assert "Not enough memory for 4 samples at once: going on with 2" in said


def test_answers_that_go_on_do_so_in_the_size_that_fits(loaded: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cal_bench.models.LEGS", (3,))
    monkeypatch.setattr("cal_bench.models.reading_threads", lambda on_gpu: 0)
    expected = texts(loaded, mixed(16))
    memory = Memory(loaded, rows=2)
    assert texts(loaded, mixed(16)) == expected
    assert memory.tried.count(8) == 1, "the second leg does not try what did not fit in the first"


def test_another_group_starts_with_the_size_that_was_asked_for(loaded: HFModel) -> None:
    memory = Memory(loaded, rows=4)
    longer = [Sample(one.id + 50, one.prompt, one.load_images, Generation(4, ()), "", None) for one in mixed(8)]
    texts(loaded, [*mixed(8), *longer])
    assert memory.tried.count(8) == 2


def test_one_sample_that_does_not_fit_is_a_message(loaded: HFModel) -> None:
    Memory(loaded, rows=0)
    with pytest.raises(UserError, match="cpu has no room for a single sample"):
        texts(loaded, mixed(3))


def test_any_other_error_of_the_device_is_not_swallowed(loaded: HFModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**tensors: Any) -> Any:
        raise RuntimeError("illegal memory access")

    monkeypatch.setattr(loaded._model, "generate", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        texts(loaded, mixed(3))


# Stopping


def test_a_stop_waits_for_the_answers_of_the_batch(loaded: HFModel) -> None:
    generate = loaded._model.generate

    def stopped(**tensors: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return generate(**tensors)

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    loaded._model.generate = stopped
    before = signal.signal(signal.SIGTERM, stop)
    try:
        taken = [reply.id for reply in consumed(loaded.answer(mixed(24)))]
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(taken) == 8


def consumed(replies: Iterator[Any]) -> list[Any]:
    """What came before the stop."""
    taken = []
    with contextlib.suppress(KeyboardInterrupt):
        for reply in replies:
            taken.append(reply)
    return taken


# Order


@pytest.mark.parametrize("name", list(ALL))
def test_pictures_count_with_the_tokens_that_they_become(name: str, systems: Callable[[str], Path]) -> None:
    processor = HFModel(systems(name), device="cpu").processor
    reader = Reader(processor, FAMILY.get(name, "cal_mgm"))
    counts = []
    for number, size in enumerate(SIZES):
        asked = dataclasses.replace(sample(number), sizes=(size,))
        counts.append(int((reader.read([asked]).tensors["input_ids"] == processor.image_token_id).sum()))
        assert reader.length(asked) == counts[-1] + len(asked.prompt) / 4
    assert (len(set(counts)) > 1) == (name == "llava-next")


def test_pictures_of_other_families_leave_the_order_to_the_prompts() -> None:
    asked = dataclasses.replace(sample(1), sizes=(SIZES[1],))
    assert Reader(object(), "other").length(asked) == len(asked.prompt) / 4
