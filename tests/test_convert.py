"""Original checkpoints become folders that transformers loads, whole or not at all."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor
from transformers import AutoProcessor

from cal_bench.checkpoints import INDEX, weight_files
from cal_bench.cli import main
from cal_bench.errors import UserError
from cal_bench.systems import weights
from cal_bench.systems.convert import convert
from cal_bench.trainer_plugin.templates import SYSTEM
from tests.original_checkpoints import (
    FORMS,
    KINDS,
    State,
    clip_folder,
    flat_config,
    inputs_for,
    load_strictly,
    native,
    original_names,
    write_form,
)
from tests.shared import SHARED, needs_shared
from tests.tiny import tiny_model
from tests.tiny_mgm import gemma_files, golden_model, golden_tensors, sentencepiece_files


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with the files of a Vicuna's and of a Gemma's tokenizer."""
    base = tmp_path_factory.mktemp("tokenizers")
    return {"llama": sentencepiece_files(base / "llama"), "gemma": gemma_files(base / "gemma")}


@pytest.fixture
def make(tmp_path: Path, tokenizers: dict[str, Path]) -> Callable[..., Any]:
    """Write an original checkpoint of a kind, and the folder of its CLIP beside it; gives the model that it came from."""

    def made(kind: str, form: str = "safetensors", change: Callable[[State], State] = lambda state: state) -> Any:
        files = tokenizers["gemma" if kind == "mgm-gemma" else "llama"]
        model = native(kind, SentencePieceProcessor(str(files / "tokenizer.model")).vocab_size())
        source = tmp_path / "source"
        source.mkdir()
        for file in files.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        (source / "config.json").write_text(json.dumps(flat_config(kind, model)), encoding="utf-8")
        state = {name: tensor for name, tensor in model.state_dict().items() if not (kind == "mgm-gemma" and name == "lm_head.weight")}
        write_form(source, change(original_names(state)), form)
        clip_folder(tmp_path / "clip", model)
        return model

    return made


@pytest.mark.parametrize(
    ("kind", "form"), [*((kind, FORMS[1]) for kind in KINDS), *(("mgm", form) for form in FORMS), ("llava-1.5", FORMS[3])]
)
def test_a_converted_checkpoint_is_the_model_it_came_from(kind: str, form: str, make: Callable[..., Any], tmp_path: Path) -> None:
    before = make(kind, form)
    folder = convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    after, processor = load_strictly(folder), AutoProcessor.from_pretrained(folder)
    words = before.config.text_config.vocab_size
    for name, tensor in before.state_dict().items():
        found = after.state_dict()[name]
        rows = words if name.endswith(("embed_tokens.weight", "lm_head.weight")) else len(found)
        torch.testing.assert_close(found[:rows], tensor, rtol=0, atol=0, msg=name)
    assert after.config.image_token_id == processor.image_token_id == words
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"] == [type(before).__name__]
    inputs = inputs_for(processor)
    before.config.image_token_index = 7  # any word: an image row's embedding is replaced
    with torch.no_grad():
        seen = after(**inputs).logits[..., :words]
        wanted = before(**inputs | {"input_ids": inputs["input_ids"].masked_fill(inputs["input_ids"] == words, 7)}).logits
    torch.testing.assert_close(seen, wanted, rtol=0, atol=1e-5)
    assert weight_files(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "native", "source"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_comes_out_answers_and_asks_as_it_was_trained(kind: str, make: Callable[..., Any], tmp_path: Path) -> None:
    make(kind)
    folder = convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    model, processor = load_strictly(folder), AutoProcessor.from_pretrained(folder)
    asked = [{"role": "user", "content": [{"type": "image", "image": Image.new("RGB", (50, 40))}, {"type": "text", "text": "What is it?"}]}]
    given = processor.apply_chat_template(asked, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt")
    pieces, places = SentencePieceProcessor(str(tmp_path / "source" / "tokenizer.model")), given["input_ids"][0] == processor.image_token_id
    begin, end = ("<start_of_turn>user\n", "\nWhat is it?<end_of_turn>\n<start_of_turn>model\n") if kind == "mgm-gemma" else (
        f"{SYSTEM} USER: ", "\nWhat is it? ASSISTANT:")  # fmt: skip
    wanted = [*pieces.encode(begin), *pieces.encode(end)]
    assert given["input_ids"][0][~places].tolist() == [processor.tokenizer.bos_token_id, *wanted]
    written = model.generate(**given, max_new_tokens=4, do_sample=False)
    assert written.shape[1] > given["input_ids"].shape[1]
    assert (processor.tokenizer.padding_side, processor.tokenizer.pad_token_id) == ("right", 0)


def test_a_row_for_the_image_token_is_never_what_is_said(make: Callable[..., Any], tmp_path: Path) -> None:
    words = make("mgm").config.text_config.vocab_size
    after = load_strictly(convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip"))
    assert after.config.text_config.vocab_size == -(-(words + 1) // 64) * 64
    hidden = torch.randn(500, after.config.text_config.hidden_size)
    scores = after.lm_head(hidden)
    torch.testing.assert_close(
        scores[:, words:], scores[:, :words].mean(dim=1, keepdim=True).expand_as(scores[:, words:]), rtol=1e-4, atol=1e-4
    )
    assert (scores.argmax(dim=1) < words).all()
    # By the same token the loss of any word rises by log(rows / words) at most.
    rise = torch.logsumexp(scores, dim=1) - torch.logsumexp(scores[:, :words], dim=1)
    assert rise.max() <= torch.tensor(len(scores[0]) / words).log() + 1e-5


@needs_shared
@pytest.mark.parametrize("case", ["grid1_llama", "grid2_global_llama"])
def test_the_golden_checkpoints_convert(case: str, tokenizers: dict[str, Path], tmp_path: Path) -> None:
    golden = SHARED / "fixtures" / "mgm" / case
    source = tmp_path / "source"
    source.mkdir()
    for file in [golden / "config.json", golden / "model.safetensors", *tokenizers["llama"].iterdir()]:
        (source / file.name).write_bytes(file.read_bytes())
    clip_folder(tmp_path / "clip", golden_model(case))
    model = load_strictly(convert(source, tmp_path / "native", tmp_path / "clip"))
    inputs, expected = golden_tensors(case, "inputs"), golden_tensors(case, "expected")
    with torch.no_grad():
        tokens = model.get_image_features(*(inputs[name][:2] for name in ("pixel_values", "high_res_pixel_values"))).pooler_output
    torch.testing.assert_close(torch.stack(tokens), expected["visual_tokens"], rtol=1e-5, atol=2e-5)


def test_half_precision_stays_and_buffers_of_old_checkpoints_are_left_out(make: Callable[..., Any], tmp_path: Path) -> None:
    def old(state: State) -> State:
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(8)
        state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]
        return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}

    make("llava-next", "bin", old)
    config = tmp_path / "source" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"rope_theta": 10000.0', '"rope_theta": 5000.0'), encoding="utf-8")
    folder = convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    stored = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert (settings["dtype"], settings["text_config"]["rope_parameters"]["rope_theta"]) == ("float16", 5000)
    images = AutoProcessor.from_pretrained(folder).image_processor
    assert [list(pair) for pair in images.image_grid_pinpoints] == [[56, 28], [28, 56], [56, 56]]  # height and width, same order


def test_a_checkpoint_without_its_tower_takes_that_of_clip(make: Callable[..., Any], tmp_path: Path) -> None:
    def without(state: State) -> State:
        return {name: tensor for name, tensor in state.items() if "vision_tower" not in name}

    before = make("llava-1.5", "sharded bin", without)
    with pytest.raises(UserError, match=r"does not hold its vision tower.*clip-vit-large-patch14-336.*--clip FOLDER"):
        convert(tmp_path / "source", tmp_path / "native")
    after = load_strictly(convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip"))
    for name, tensor in before.model.vision_tower.state_dict().items():
        torch.testing.assert_close(after.model.vision_tower.state_dict()[name], tensor, rtol=0, atol=0)


def test_a_tower_that_was_trained_is_not_replaced(make: Callable[..., Any], tmp_path: Path) -> None:
    name = "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding"
    make("llava-next", change=lambda state: state | {name: torch.full_like(state[name], 3.0)})
    after = load_strictly(convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip"))
    assert after.model.vision_tower.embeddings.class_embedding.eq(3).all()


def _without(name: str) -> Callable[[State], State]:
    return lambda state: {key: tensor for key, tensor in state.items() if key != name}


@pytest.mark.parametrize(("change", "told"), [
    (_without("model.vlm_uni_val_projector.1.bias"), "lacks model.patch_info_mining.value_proj.bias"),
    (_without("model.layers.1.mlp.up_proj.weight"), "lacks model.language_model.layers.1.mlp.up_proj.weight"),
    (lambda state: state | {"model.extra.weight": torch.ones(2)}, "has model.extra.weight, which the model does not know"),
    (lambda state: state | {"model.vision_tower_aux.norm_pre.weight": torch.ones(2)}, "has model.vision_tower_aux.norm_pre.weight"),
    (lambda state: state | {"model.norm.weight": torch.ones(3)}, r"model.language_model.norm.weight in shape \[3\]"),
    (lambda state: {name: tensor for name, tensor in state.items() if "aux." not in name}, "does not hold its high-resolution tower"),
])  # fmt: skip
def test_what_does_not_fit_is_told_and_nothing_written(change: Any, told: str, make: Callable[..., Any], tmp_path: Path) -> None:
    make("mgm", change=change)
    with pytest.raises(UserError, match=told):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "source"]


@pytest.mark.parametrize(("settings", "told"), [
    ({"model_type": "llava_mistral"}, "its model_type is 'llava_mistral'"),
    ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', but only 'mlp2x_gelu'"),
    ({"mm_vision_select_feature": "cls_patch"}, "mm_vision_select_feature is 'cls_patch'"),
    ({"image_aspect_ratio": "anyres_max_9"}, "image_aspect_ratio is 'anyres_max_9', but only"),
    ({"image_aspect_ratio": "anyres", "image_grid_pinpoints": "(1x1),...,(6x6)"}, r"image_grid_pinpoints is '\(1x1\)"),
])  # fmt: skip
def test_other_models_are_refused(settings: dict[str, Any], told: str, make: Callable[..., Any], tmp_path: Path) -> None:
    make("llava-1.5")
    config = tmp_path / "source" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    with pytest.raises(UserError, match=told):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")


def test_a_native_checkpoint_needs_no_conversion(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "source")
    with pytest.raises(UserError, match="needs no conversion"):
        convert(tmp_path / "source", tmp_path / "native")


def test_folders_that_are_missing_or_in_the_way_are_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    make("mgm")
    with pytest.raises(UserError, match="no model folder"):
        convert(tmp_path / "sauce", tmp_path / "native")
    (tmp_path / "native").mkdir()
    with pytest.raises(UserError, match="already exists"):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    for file in (tmp_path / "source").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(UserError, match="holds no weights"):
        convert(tmp_path / "source", tmp_path / "other", tmp_path / "clip")


class Harmful:
    """What a pickle can do when it is loaded without care."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.trace}",)


def test_no_code_of_a_checkpoint_runs(make: Callable[..., Any], tmp_path: Path) -> None:
    make("mgm", "bin", lambda state: state | {"model.norm.weight": Harmful(tmp_path / "trace")})
    with pytest.raises(UserError, match="could run code"):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_half_a_file_is_told(form: str, make: Callable[..., Any], tmp_path: Path) -> None:
    make("mgm", form)
    file = next(file for file in (tmp_path / "source").iterdir() if file.stem in ("model", "pytorch_model"))
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(UserError, match="damaged"):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")


def test_what_is_broken_off_does_not_look_complete(make: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make("mgm")
    (tmp_path / ".native.incomplete").mkdir()  # as a killed run leaves it
    (tmp_path / ".native.incomplete" / "model.safetensors").write_text("half")
    whole = weights.write

    def broken(*given: Any) -> None:
        whole(*given)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "write", broken)
    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip", "source"]
    monkeypatch.undo()
    load_strictly(convert(tmp_path / "source", tmp_path / "native", tmp_path / "clip"))


def test_shards_hold_at_most_the_limit_and_every_weight_once(tmp_path: Path) -> None:
    found = {f"w{number}": weights.Weight.of(torch.full((10,), float(number))) for number in range(7)}
    found["large"] = weights.Weight.of(torch.ones(100))
    weights.write(found, tmp_path, limit=100)
    assert [len(load_file(file)) for file in weight_files_in(tmp_path)] == [2, 2, 2, 1, 1]
    index = json.loads((tmp_path / INDEX).read_text(encoding="utf-8"))
    assert index["metadata"] == {"total_size": 7 * 40 + 400}
    assert {name: load_file(tmp_path / file)[name][0].item() for name, file in index["weight_map"].items()} == {
        **{f"w{number}": float(number) for number in range(7)}, "large": 1.0,
    }  # fmt: skip


def weight_files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


MEASURE = """
import sys
from pathlib import Path
import torch
from cal_bench.systems import names, weights

def peak():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")).split()[1]) * 1024

source = Path(sys.argv[1])
for limit in (0, *map(int, sys.argv[2:])):  # the first only loads what is loaded once
    (source / str(limit)).mkdir()
    Path("/proc/self/clear_refs").write_text("5")
    before = peak()
    weights.write(weights.stored(source, names.text), source / str(limit), limit)
    print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_memory_is_that_of_a_shard_not_of_a_checkpoint(form: str, tmp_path: Path) -> None:
    shard, count = 16 * 1024**2, 6
    for number in range(count):
        state = {f"model.layers.{number}.part{part}.weight": torch.zeros(1024, 1024) for part in range(4)}
        if form == "bin":
            torch.save(state, tmp_path / f"pytorch_model-{number}.bin")
        else:
            save_file(state, tmp_path / f"model-{number}.safetensors")
    command = [sys.executable, "-c", MEASURE, str(tmp_path), str(shard), str(count * shard)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    by_shard, at_once = (int(line) for line in told.splitlines()[-2:])
    assert by_shard < 2 * shard
    assert at_once > 0.9 * count * shard  # all in one file: the measure sees what it should


def test_the_command_says_what_it_needs(make: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make("mgm")
    source = tmp_path / "source"
    assert main(["convert", str(source), str(tmp_path / "native"), "--clip", str(tmp_path / "clip")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "native")
    for typed, told in (
        (["convert", str(source)], "Give the original checkpoint and the new folder"),
        (["convert", str(tmp_path / "new"), "--from-scratch", "mmg"], "no system 'mmg'. Did you mean 'mgm'?"),
        (["convert", str(tmp_path / "new"), "--from-scratch", "mgm"], "give --language and --clip"),
    ):
        assert main(typed) == 2
        assert told in capsys.readouterr().err
