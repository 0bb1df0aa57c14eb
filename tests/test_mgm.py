"""MGM and MGM-HD: against the golden numbers of the original, and as transformers and CAL use a model."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, LlamaForCausalLM

import cal_bench.trainer_plugin as cal
from cal_bench.systems.mgm_mining import PatchInfoMining, windows
from cal_bench.systems.mgm_model import MgmForConditionalGeneration, MgmModel
from cal_bench.systems.register import register
from cal_bench.trainer_plugin import CALConfig
from cal_bench.trainer_plugin.loss import measure
from cal_bench.trainer_plugin.selftest import selftest
from tests.shared import needs_shared
from tests.tiny import assert_same_gradients
from tests.tiny_mgm import GEMMA, IMAGE, LLAMA, TILES, folder_of, golden_model, golden_tensors, tiny_batch, tiny_config, tiny_mgm

GOLDEN = ("grid1_llama", "grid2_global_llama", "grid1_gemma")
both = pytest.mark.parametrize("hd", [False, True])
texts = pytest.mark.parametrize("text", [LLAMA, GEMMA], ids=["llama", "gemma"])
PICTURES = ("pixel_values", "high_res_pixel_values")


@needs_shared
@pytest.mark.parametrize("case", GOLDEN)
def test_visual_tokens_and_logits_are_the_originals(case: str) -> None:
    model, inputs, expected = golden_model(case), golden_tensors(case, "inputs"), golden_tensors(case, "expected")
    pictures = {name: inputs[name][: len(expected["visual_tokens"])] for name in PICTURES}
    with torch.no_grad():
        tokens = torch.stack(model.get_image_features(**pictures).pooler_output)
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **pictures).logits
    # The original scales image rows together with the words; its tokens are stored before that.
    torch.testing.assert_close(tokens / model.config.image_scale, expected["visual_tokens"], rtol=1e-5, atol=2e-5)
    seen = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits[seen], expected["logits"][seen], rtol=1e-5, atol=2e-5)
    assert model.config.image_scale == (48**0.5 if case == "grid1_gemma" else 1.0)
    assert model.config.image_seq_length == expected["visual_tokens"].shape[1]


@needs_shared
@pytest.mark.parametrize("part", ["key_proj.weight", "value_proj.weight", "query_norm.weight"])
def test_the_golden_numbers_notice_each_part_of_mining(part: str) -> None:
    model, inputs, expected = (golden_model(GOLDEN[1]), golden_tensors(GOLDEN[1], "inputs"), golden_tensors(GOLDEN[1], "expected"))
    with torch.no_grad():
        model.model.patch_info_mining.get_parameter(part).neg_()
        tokens = torch.stack(model.get_image_features(*(inputs[name] for name in PICTURES)).pooler_output)
    assert (tokens - expected["visual_tokens"]).abs().max() > 0.1


def literal_mining(mining: PatchInfoMining, tokens: Tensor, pixels: Tensor) -> Tensor:
    """The paper's form: every pixel gets a key and a value."""
    keys = F.linear(mining.key_norm(pixels), mining.key_proj.weight, mining.key_proj.bias)
    values = mining.value_proj(mining.value_norm(pixels))
    queries = mining.query_proj(mining.query_norm(tokens))
    scores = (queries[..., None, :] @ (keys / math.sqrt(tokens.shape[-1])).transpose(-1, -2)).nan_to_num()
    return (scores.softmax(dim=-1) @ values)[..., 0, :]


def test_mining_equals_its_literal_form_with_all_gradients() -> None:
    torch.manual_seed(0)
    mining = PatchInfoMining(12, 20).double()
    with torch.no_grad():
        for parameter in mining.parameters():
            parameter.normal_()
    tokens, pixels = torch.randn(2, 9, 12, dtype=torch.double), 3 * torch.randn(2, 9, 16, 20, dtype=torch.double) + 1
    results = []
    for form in (mining, lambda *given: literal_mining(mining, *given)):
        mining.zero_grad()
        found = form(tokens, pixels)
        (found * torch.arange(found.numel()).view_as(found).cos()).sum().backward()
        results.append((found.detach(), {name: parameter.grad for name, parameter in mining.named_parameters()}))
    (cheap, gradients), (literal, wanted) = results
    torch.testing.assert_close(cheap, literal, rtol=1e-12, atol=1e-12)
    assert_same_gradients(gradients, wanted, relative=1e-9)
    # Biases of the keys move all scores of a patch alike.
    assert wanted["key_norm.bias"].abs().max() < 1e-12 < wanted["key_norm.weight"].abs().max()


def test_windows_give_every_patch_its_own_pixels() -> None:
    places = torch.arange(8 * 8).view(1, 1, 8, 8)
    whole = windows(places, 1, 2)[0, :, :, 0]
    assert whole[1].tolist() == [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31]
    tiles = windows(places, 2, 2)[..., 0]
    assert tiles.shape == (4, 4, 4)
    assert tiles[1, 2].tolist() == [20, 21, 28, 29]  # top right tile, bottom left patch
    with pytest.raises(ValueError, match="another size"):
        windows(places, 1, 3)


@both
@texts
def test_saved_and_loaded_it_is_the_same(hd: bool, text: dict[str, Any], tmp_path: Path) -> None:
    register()
    model, batch = tiny_mgm(hd, text), tiny_batch(hd)
    first = AutoModelForImageTextToText.from_pretrained(folder_of(tmp_path / "first", model))
    assert type(first) is MgmForConditionalGeneration
    # As a checkpoint of a training that started from a folder is written.
    second = AutoModelForImageTextToText.from_pretrained(folder_of(tmp_path / "second", first))
    assert second.config.tiles == TILES[hd]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(second.state_dict()[name], value, rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(second(**batch).logits, model(**batch).logits, rtol=0, atol=0)
    assert type(AutoModel.from_pretrained(tmp_path / "second")) is MgmModel
    assert AutoConfig.from_pretrained(tmp_path / "second").image_token_id == IMAGE


@both
@texts
def test_left_padded_batches_and_beams_write_what_each_row_writes_alone(hd: bool, text: dict[str, Any]) -> None:
    model, batch = tiny_mgm(hd, text), tiny_batch(hd, left=True)
    del batch["labels"]
    for beams in (1, 3):
        settings = {"max_new_tokens": 6, "num_beams": beams, "do_sample": False, "eos_token_id": None}
        together = model.generate(**batch, **settings)
        for row in range(2):
            kept = batch["attention_mask"][row].bool()
            alone = {"input_ids": batch["input_ids"][row : row + 1, kept], "attention_mask": torch.ones(1, int(kept.sum()), dtype=int)}
            alone |= {name: batch[name][row : row + 1] for name in PICTURES}
            assert model.generate(**alone, **settings)[0, -6:].tolist() == together[row, -6:].tolist()


def test_greedy_generation_equals_reading_everything_again() -> None:
    model, batch = tiny_mgm(), tiny_batch(rows=1, text_rows=0)
    pictures = {name: batch[name] for name in PICTURES}
    written = model.generate(batch["input_ids"], **pictures, max_new_tokens=5, do_sample=False, eos_token_id=None)
    ids = batch["input_ids"]
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids, **pictures).logits[:, -1:].argmax(-1)], dim=1)
    assert ids.tolist() == written.tolist()


@both
def test_a_picture_changes_only_what_follows_it_in_its_own_row(hd: bool) -> None:
    model, batch = tiny_mgm(hd), tiny_batch(hd)
    for name in PICTURES:
        changed = batch | {name: batch[name].index_fill(0, torch.tensor([1]), 0.5)}
        with torch.no_grad():
            moved = (model(**changed).logits - model(**batch).logits).abs().amax(dim=-1) > 1e-4
        assert not moved[[0, 2]].any()
        assert not moved[1, :3].any()
        assert moved[1, 3:-3].all()


def test_text_alone_is_the_language_model() -> None:
    model, batch = tiny_mgm(), tiny_batch(rows=0, text_rows=2)
    text = LlamaForCausalLM(model.config.text_config)
    text.load_state_dict({name.replace("language_model.", ""): value for name, value in model.state_dict().items() if "tower" not in name},
                         strict=False)  # fmt: skip
    ids = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        torch.testing.assert_close(model(**ids).logits, text.eval()(**ids).logits)


def test_attention_kernels_agree() -> None:
    eager, sdpa = tiny_mgm(True, attention="eager"), tiny_mgm(True, attention="sdpa")
    assert (eager.config.text_config._attn_implementation, sdpa.config.vision_config._attn_implementation) == ("eager", "sdpa")
    batch = tiny_batch(True)
    seen = batch["attention_mask"].bool()
    with torch.no_grad():
        torch.testing.assert_close(eager(**batch).logits[seen], sdpa(**batch).logits[seen], rtol=1e-4, atol=1e-4)


@both
@pytest.mark.parametrize("mixed", [False, True])
def test_half_precision_reads_the_same(hd: bool, mixed: bool) -> None:
    model, batch = tiny_mgm(hd), tiny_batch(hd)
    with torch.no_grad():
        wanted = torch.stack(model.get_image_features(*(batch[name] for name in PICTURES)).pooler_output)
        if not mixed:
            model, batch = model.bfloat16(), {name: value.bfloat16() if name in PICTURES else value for name, value in batch.items()}
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            found = torch.stack(model.get_image_features(*(batch[name] for name in PICTURES)).pooler_output)
            assert model(**batch).logits.isfinite().all()
    assert (found.float() - wanted).abs().max() < 0.03 * wanted.abs().max()


STAGES = {
    "pre-training": ("model.multi_modal_projector.", "model.patch_info_mining."),
    "instruction tuning": ("model.multi_modal_projector.", "model.patch_info_mining.", "model.language_model.", "lm_head."),
}


@both
@pytest.mark.parametrize("stage", list(STAGES))
def test_gradient_checkpointing_changes_no_gradient_and_none_is_missing(hd: bool, stage: str) -> None:
    found = []
    for checkpointed in (False, True):
        model = tiny_mgm(hd).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(STAGES[stage]))
        if checkpointed:
            model.gradient_checkpointing_enable()
        torch.manual_seed(1)  # of drop path
        model(**tiny_batch(hd)).loss.backward()
        found.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    assert all(gradient is not None for gradient in found[1].values())
    assert_same_gradients(found[1], found[0], relative=1e-5)


def test_the_frozen_high_resolution_tower_drops_paths_while_training() -> None:
    model, batch = tiny_mgm(), tiny_batch()
    model.requires_grad_(False)
    model.train()
    rates = [module.drop_prob for module in model.modules() if type(module).__name__ == "ConvNextDropPath"]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1])  # the first of five blocks keeps all
    torch.manual_seed(0)
    assert len({_tokens(model, batch) for _ in range(20)}) > 1
    model.eval()
    assert len({_tokens(model, batch) for _ in range(5)}) == 1


def _tokens(model: MgmForConditionalGeneration, batch: dict[str, Tensor]) -> float:
    """One number of all visual tokens."""
    return torch.cat(model.get_image_features(*(batch[name] for name in PICTURES)).pooler_output).double().sum().item()


def test_what_is_new_starts_as_torch_makes_it() -> None:
    model = MgmForConditionalGeneration(tiny_config())
    for layer in (
        model.model.multi_modal_projector.linear_1,
        model.model.patch_info_mining.key_proj,
        model.model.patch_info_mining.query_proj,
    ):
        bound = layer.weight.shape[1] ** -0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert 0 < layer.bias.abs().max() <= bound
    assert model.model.patch_info_mining.key_norm.weight.eq(1).all()
    assert model.model.language_model.layers[0].mlp.up_proj.weight.std() > 0.2  # the text config's own initializer_range


def test_weights_that_a_checkpoint_has_are_not_made_again(tmp_path: Path) -> None:
    register()
    model = tiny_mgm()
    folder = folder_of(tmp_path, model)
    state = {name: value for name, value in model.state_dict().items() if "key_proj" not in name}
    model.save_pretrained(folder, state_dict=state)
    loaded, told = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert sorted(told["missing_keys"]) == ["model.patch_info_mining.key_proj.bias", "model.patch_info_mining.key_proj.weight"]
    for name, value in state.items():
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    assert loaded.model.patch_info_mining.key_proj.weight.abs().max() <= 28**-0.5


def test_one_resolution_without_the_other_is_refused() -> None:
    batch = tiny_batch()
    del batch["high_res_pixel_values"]
    with pytest.raises(ValueError, match="both or neither"):
        tiny_mgm()(**batch)


@both
@texts
def test_cal_needs_no_code_for_it(hd: bool, text: dict[str, Any]) -> None:
    checks = selftest(tiny_mgm(hd, text), tiny_batch(hd))
    assert [(check.name, check.remedy) for check in checks if check.remedy] == []
    assert len(checks) == 4


@both
@pytest.mark.parametrize("left", [False, True])
def test_cal_by_dropping_equals_cal_by_masking(hd: bool, left: bool) -> None:
    model, batch = tiny_mgm(hd), tiny_batch(hd, left)
    drop, mask = (measure(model, batch, CALConfig(beta=None, window=1, contrast=contrast)) for contrast in ("drop", "mask"))
    torch.testing.assert_close(drop.delta, mask.delta, rtol=0, atol=1e-5)
    assert drop.delta[drop.tokens.seeing].abs().max() > 0.3


@both
def test_with_equal_bounds_a_cal_step_has_every_gradient_of_the_stock_step(hd: bool) -> None:
    gradients = []
    for with_cal in (False, True):
        model: nn.Module = tiny_mgm(hd).train()
        if with_cal:
            cal.apply(model, CALConfig(alpha=1, beta=1))
        torch.manual_seed(1)
        model(**tiny_batch(hd)).loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.grad is not None})
    assert_same_gradients(gradients[1], gradients[0], relative=1e-5)
    assert any(name.startswith("model.patch_info_mining.value_proj") for name in gradients[1])
