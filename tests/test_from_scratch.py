"""Language model, CLIP and ConvNeXt become an untrained system; the nine systems of the paper in their true sizes."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, ConvNextModel, LlamaForCausalLM

from cal_bench.errors import UserError
from cal_bench.systems.anatomy import SYSTEMS, native_config
from cal_bench.systems.convert import Parts, from_scratch
from cal_bench.systems.register import register
from tests.original_checkpoints import inputs_for, load_strictly
from tests.parts import OUR_SYSTEM, tiny_parts
from tests.tiny_mgm import CONVNEXT, tiny_mgm


@pytest.fixture
def parts(tmp_path: Path) -> Parts:
    return tiny_parts(tmp_path)


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_parts_make_an_untrained_system(name: str, parts: Parts, tmp_path: Path) -> None:
    model = load_strictly(from_scratch(OUR_SYSTEM.get(name, SYSTEMS[name]), parts, tmp_path / "base"))
    tower, language = tiny_mgm().model, LlamaForCausalLM.from_pretrained(parts.language)
    for mine, theirs in [(model.model.vision_tower, tower.vision_tower), (model.model.language_model.layers, language.model.layers)]:
        for key, tensor in theirs.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[key], tensor.bfloat16(), rtol=0, atol=0)
    projector = model.model.multi_modal_projector.linear_1
    assert projector.weight.dtype == torch.bfloat16
    assert 0.9 * 16**-0.5 < projector.weight.abs().max() <= 16**-0.5
    assert 0 < projector.bias.abs().max() <= 16**-0.5
    if name == "llava-next":
        assert model.model.image_newline.float().std().item() == pytest.approx(32**-0.5, rel=0.4)
    if name.startswith("mgm"):
        for key, tensor in tower.high_res_vision_tower.state_dict().items():
            torch.testing.assert_close(model.model.high_res_vision_tower.state_dict()[key], tensor.bfloat16(), rtol=0, atol=0)
    inputs = inputs_for(AutoProcessor.from_pretrained(tmp_path / "base"))
    with torch.no_grad():
        assert model.float()(**inputs).logits.isfinite().all()


def test_a_seed_decides_what_is_new(parts: Parts, tmp_path: Path) -> None:
    found = []
    for number, seed in enumerate((0, 0, 1)):
        given = Parts(parts.language, parts.clip, parts.convnext, seed=seed)
        torch.manual_seed(number)
        state = load_file(from_scratch(OUR_SYSTEM["mgm"], given, tmp_path / str(number)) / "model.safetensors")
        found.append(
            torch.cat(
                [state[f"model.{name}.weight"].flatten() for name in ("patch_info_mining.key_proj", "multi_modal_projector.linear_2")]
            )
        )
    assert found[0].equal(found[1])
    assert not found[0].equal(found[2])


def test_a_convnext_of_transformers_is_a_part_too(parts: Parts, tmp_path: Path) -> None:
    tower = ConvNextModel(tiny_mgm().config.high_res_vision_config)
    tower.save_pretrained(tmp_path / "hf")
    model = load_strictly(from_scratch(OUR_SYSTEM["mgm"], Parts(parts.language, parts.clip, tmp_path / "hf"), tmp_path / "base"))
    wanted = tower.bfloat16().encoder.state_dict()
    torch.testing.assert_close(model.model.high_res_vision_tower.encoder.state_dict(), wanted, rtol=0, atol=0)
    assert model.config.high_res_vision_config.depths == CONVNEXT["depths"]
    assert model.config.high_res_vision_config.drop_path_rate == 0.1


def test_mgm_without_its_second_tower_is_refused(parts: Parts, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="second vision tower"):
        from_scratch(OUR_SYSTEM["mgm"], Parts(parts.language, parts.clip), tmp_path / "base")
    with pytest.raises(UserError, match="must be a CLIP"):
        from_scratch(OUR_SYSTEM["mgm"], Parts(parts.language, parts.language, parts.convnext), tmp_path / "base")


def test_mgm_hd_begins_with_what_mgm_has_learnt(parts: Parts, tmp_path: Path) -> None:
    mgm = load_strictly(from_scratch(OUR_SYSTEM["mgm"], parts, tmp_path / "mgm"))
    with torch.no_grad():
        mgm.model.patch_info_mining.value_proj.weight.fill_(2)
        mgm.model.multi_modal_projector.linear_1.weight.fill_(3)
    mgm.save_pretrained(tmp_path / "trained")
    again = Parts(parts.language, parts.clip, parts.convnext, adapter=tmp_path / "trained")
    hd = load_strictly(from_scratch(OUR_SYSTEM["mgm-hd"], again, tmp_path / "hd"))
    assert hd.config.tiles == 5
    for name in ("patch_info_mining", "multi_modal_projector"):
        wanted = mgm.model.get_submodule(name).state_dict()
        torch.testing.assert_close(hd.model.get_submodule(name).state_dict(), wanted, rtol=0, atol=0)


def test_a_projector_that_others_trained_is_taken(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    shapes = {"0.weight": (32, 16), "0.bias": (32,), "2.weight": (32, 32), "2.bias": (32,)}
    made = {f"model.mm_projector.{name}": torch.full(shape, 4.0) for name, shape in shapes.items()}
    torch.save(made, tmp_path / "adapter" / "mm_projector.bin")
    given = Parts(parts.language, parts.clip, adapter=tmp_path / "adapter")
    model = load_strictly(from_scratch(SYSTEMS["llava-1.5"], given, tmp_path / "base"))
    assert all(parameter.eq(4).all() for parameter in model.model.multi_modal_projector.parameters())


def test_what_joins_a_trained_llava_next_is_taken_too(parts: Parts, tmp_path: Path) -> None:
    model = load_strictly(from_scratch(SYSTEMS["llava-next"], parts, tmp_path / "base"))
    with torch.no_grad():
        for parameter in [*model.model.multi_modal_projector.parameters(), model.model.image_newline]:
            parameter.fill_(4)
    model.save_pretrained(tmp_path / "adapter")  # under the older names that transformers writes for LLaVA
    given = Parts(parts.language, parts.clip, adapter=tmp_path / "adapter")
    again = load_strictly(from_scratch(SYSTEMS["llava-next"], given, tmp_path / "again")).model
    assert all(parameter.eq(4).all() for parameter in [*again.multi_modal_projector.parameters(), again.image_newline])


def test_an_adapter_of_another_system_is_refused(parts: Parts, tmp_path: Path) -> None:
    from_scratch(SYSTEMS["llava-1.5"], parts, tmp_path / "llava")
    given = Parts(parts.language, parts.clip, parts.convnext, adapter=tmp_path / "llava")
    with pytest.raises(UserError, match=r"lacks model\.patch_info_mining"):
        from_scratch(OUR_SYSTEM["mgm"], given, tmp_path / "base")


VICUNA_7B: dict[str, Any] = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "vocab_size": 32000,
}  # fmt: skip
VICUNA_13B = VICUNA_7B | {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
GEMMA_2B: dict[str, Any] = {
    "model_type": "gemma", "hidden_size": 2048, "intermediate_size": 16384, "num_hidden_layers": 18, "num_attention_heads": 8,
    "num_key_value_heads": 1, "head_dim": 256, "vocab_size": 256000,
}  # fmt: skip
TEXT = {"7B": VICUNA_7B, "13B": VICUNA_13B, "2B": GEMMA_2B}
# Parameters as the checkpoints of their authors have them. ConvNeXt's trunk has 3,072 more, of a norm that nothing reads.
LANGUAGE = {"7B": 6_738_415_616, "13B": 13_015_864_320, "2B": 2_506_172_416}
CLIP_L, CONVNEXT_L, MINING = 303_507_456, 196_230_336 - 3_072, 6_963_456
PROJECTOR = {"7B": 20_979_712, "13B": 31_467_520, "2B": 6_295_552}
TOKENS = {"llava-1.5": 576, "mgm": 576, "mgm-hd": 2880}
NINE = [(name, size) for name in SYSTEMS for size in ("7B", "13B")] + [("mgm", "2B")]


@pytest.mark.parametrize(("name", "size"), NINE)
def test_the_nine_systems_have_the_sizes_of_the_paper(name: str, size: str) -> None:
    register()
    config = native_config(SYSTEMS[name], AutoConfig.for_model(**TEXT[size]), None, None)
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    wanted = LANGUAGE[size] + CLIP_L + PROJECTOR[size]
    wanted += CONVNEXT_L + MINING if name.startswith("mgm") else 0
    wanted += TEXT[size]["hidden_size"] if name == "llava-next" else 0  # the token between rows
    assert sum(parameter.numel() for parameter in model.parameters()) == wanted
    if name in TOKENS:
        assert config.image_seq_length == TOKENS[name]
    if name.startswith("mgm"):
        towers = [len(list(tower.parameters())) for tower in (model.model.high_res_vision_tower, model.model.vision_tower)]
        assert towers == [340, 391]  # as many as in the original checkpoint
        low = torch.empty(2, *((5,) if config.image_global else ()), 3, 336, 336, device="meta")
        high = torch.empty(2, 3, *(SYSTEMS[name].high_res_size,) * 2, device="meta")
        features = model.get_image_features(low, high).pooler_output
        assert [tuple(picture.shape) for picture in features] == [(TOKENS[name], TEXT[size]["hidden_size"])] * 2
