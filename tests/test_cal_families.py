"""CAL on every family that the support table names: drop against mask, against the stock loss, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoConfig, GemmaConfig, GemmaForCausalLM
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

import cal_bench.trainer_plugin as cal
from cal_bench.cli import main
from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin import families as known
from cal_bench.trainer_plugin.contrast import both_passes
from cal_bench.trainer_plugin.loss import measure
from cal_bench.trainer_plugin.selftest import selftest
from tests.tiny import save_tiny
from tests.vlm_zoo import BY_NAME, FAMILIES, IMAGE, VIDEO, document

DROP, MASK = CALConfig(beta=None, window=1), CALConfig(beta=None, window=1, contrast="mask")
DROP_ONLY = ("lfm2_vl", "qwen3_5")
everyone = pytest.mark.parametrize("name", list(BY_NAME))
masked = pytest.mark.parametrize("name", [name for name in BY_NAME if name not in DROP_ONLY])
attentions = pytest.mark.parametrize("attention", ["eager", "sdpa"])


@masked
@attentions
@pytest.mark.parametrize("left", [False, True])
def test_drop_equals_mask(name: str, attention: str, left: bool) -> None:
    model, batch = BY_NAME[name].model(attention), BY_NAME[name].batch(left=left)
    dropped, hidden = measure(model, batch, DROP), measure(model, batch, MASK)
    torch.testing.assert_close(dropped.delta, hidden.delta, rtol=0, atol=1e-5)
    assert dropped.delta[dropped.tokens.seeing].abs().max() > 0.5
    assert dropped.delta[~dropped.tokens.seeing].eq(0).all()


@everyone
@attentions
def test_equal_bounds_give_the_stock_loss_and_the_image_free_pass_sees_no_pixels(name: str, attention: str) -> None:
    checks = selftest(BY_NAME[name].model(attention), BY_NAME[name].batch())
    assert [check.remedy for check in checks] == [""] * 4


@everyone
def test_padding_on_either_side_gives_the_same_deltas(name: str) -> None:
    family = BY_NAME[name]
    model = family.model()
    right, left = (measure(model, family.batch(left=side), DROP).delta for side in (False, True))
    # The same tokens, but at other positions where the family does not count from the first real one.
    torch.testing.assert_close(left, right, rtol=0, atol=1e-4)


@everyone
def test_a_step_of_training_gives_every_gradient_of_the_stock_step(name: str) -> None:
    family = BY_NAME[name]
    model, twin = family.model(), family.model()
    cal.apply(model, CALConfig(alpha=2, beta=2))
    for each in (model, twin):
        each(**family.batch()).loss.backward()
    for (parameter, found), (_, wanted) in zip(model.named_parameters(), twin.named_parameters(), strict=True):
        assert (found.grad is None) == (wanted.grad is None), parameter
        if wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-3, atol=1e-4, msg=lambda text, at=parameter: f"{at}: {text}")


WINDOWED: dict[str, dict[str, Any]] = {
    "gemma3": {"sliding_window": 6},
    "gemma4": {"sliding_window": 6},
    "mistral3": {"sliding_window": 6},
    "llava": {"model_type": "cohere2", "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
    "internvl": {
        "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1, "layer_types": ["full_attention", "sliding_attention"],
    },
}  # fmt: skip


@pytest.mark.parametrize("name", list(WINDOWED))
@attentions
@pytest.mark.parametrize("left", [False, True])
def test_windows_count_original_positions(name: str, attention: str, left: bool) -> None:
    model, batch = BY_NAME[name].model(attention, **WINDOWED[name]), BY_NAME[name].batch(left=left)
    torch.testing.assert_close(measure(model, batch, DROP).delta, measure(model, batch, MASK).delta, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DROP_ONLY)
def test_layers_that_hidden_tokens_move_are_dropped_only(name: str) -> None:
    model, batch = BY_NAME[name].model(), BY_NAME[name].batch()
    with pytest.raises(CALError, match=rf"{name}.*contrast='drop'"):
        measure(model, batch, MASK)
    # Drop is the model's own reading of the text alone.
    row = {key: batch[key][:1] for key in ("input_ids", "attention_mask")}
    keep = row["input_ids"][0] != IMAGE
    positions = _positions(model, batch)[..., :1, keep]
    plain = {"attention_mask": torch.ones(1, int(keep.sum()), dtype=torch.long), "position_ids": positions, "use_cache": False}
    alone = model.get_decoder()(input_ids=row["input_ids"][:, keep], **plain)[0]
    blind = both_passes(model, batch, DROP).blind
    assert blind is not None
    torch.testing.assert_close(blind.hidden[: alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


def _positions(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    found = []
    hook = model.get_decoder().register_forward_pre_hook(
        lambda module, args, kwargs: found.append(kwargs["position_ids"]), with_kwargs=True
    )
    model.base_model(**{key: value for key, value in batch.items() if key != "labels"}, use_cache=False)
    hook.remove()
    if found[0] is None:
        return torch.arange(batch["input_ids"].shape[1]).expand(batch["input_ids"].shape)
    return found[0]


def test_the_image_free_pass_of_deepstack_and_cross_attention_gets_nothing_of_the_image() -> None:
    for name, argument in {"qwen3_vl": "deepstack_visual_embeds", "mllama": "cross_attention_states"}.items():
        model, calls = BY_NAME[name].model(), []
        model.get_decoder().register_forward_pre_hook(
            lambda module, args, kwargs, wanted=argument, seen=calls: seen.append(kwargs.get(wanted)), with_kwargs=True
        )
        both_passes(model, BY_NAME[name].batch(), DROP)
        assert calls[0] is not None
        assert calls[1] is None


def test_video_placeholders_are_left_out_too() -> None:
    family = BY_NAME["qwen2_vl"]
    model, batch = family.model(), family.batch()
    batch["input_ids"] = batch["input_ids"].where(batch["input_ids"] != IMAGE, VIDEO)
    batch["mm_token_type_ids"] = 2 * batch["mm_token_type_ids"]
    batch["pixel_values_videos"], batch["video_grid_thw"] = batch.pop("pixel_values"), batch.pop("image_grid_thw")
    dropped, hidden = measure(model, batch, DROP).delta, measure(model, batch, MASK).delta
    torch.testing.assert_close(dropped, hidden, rtol=0, atol=1e-5)
    assert dropped.abs().max() > 0.5


def changes_logits(family: str, name: str) -> bool:
    """Whether a class scales or caps what its head gives, by its source: importing them all takes minutes."""
    folder = Path(transformers.__file__).parent / "models" / model_type_to_module_name(family)
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("modeling_*.py"))
    own = text.partition(f"\nclass {name}(")[2].partition("\nclass ")[0]
    return re.search(r"logits = (logits|self\.lm_head\(hidden_states\)) [*/]", own) is not None


def test_the_families_that_change_their_logits_are_those_that_transformers_changes() -> None:
    classes = {name: found if isinstance(found, str) else found[0] for name, found in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.items()}
    changed = {family for family, name in classes.items() if changes_logits(family, name)}
    assert {family for family in changed if known.refusal(AutoConfig.for_model(family)) is None} == {
        *known.SOFT_CAPPED, *known.MULTIPLIED, *known.DIVIDED,
    }  # fmt: skip


@pytest.mark.parametrize(("family", "text", "expected"), [
    ("granite4_vision", {"logits_scaling": 4.0}, 3.0),
    ("granite_docling", {"logits_scaling": 4.0}, 3.0),
    ("hyperclovax_vision_v2", {"logits_scaling": 0.5}, 6.0),
    ("muse_glimmer", {"output_multiplier": 0.5, "final_logit_softcapping": 10.0}, 10 * torch.tensor(0.6).tanh().item()),
    ("paligemma", {"model_type": "gemma2", "final_logit_softcapping": 10.0}, 10 * torch.tensor(1.2).tanh().item()),
    # Its forward ignores the setting.
    ("gemma3", {"final_logit_softcapping": 10.0}, None),
])  # fmt: skip
def test_scores_are_scaled_and_capped(family: str, text: dict[str, Any], expected: float | None) -> None:
    class Model(torch.nn.Module):
        config = AutoConfig.for_model(family, text_config=text)

    transform = known.score_transform(Model())
    if expected is None:
        assert transform is None
    else:
        assert transform is not None
        assert transform(torch.tensor(12.0)).item() == pytest.approx(expected)


@pytest.mark.parametrize(("family", "reason"), [
    ("chameleon", "words of the vocabulary"), ("emu3", "words of the vocabulary"), ("florence2", "encoder"), ("blip-2", "tokens"),
    ("kosmos-2", "positions"), ("llama4", "holds its own head"), ("git", "tokens"), ("udop", "encoder"),
])  # fmt: skip
def test_what_has_no_contrast_is_refused_by_name(family: str, reason: str) -> None:
    class Model(torch.nn.Module):
        config = AutoConfig.for_model(family)

    with pytest.raises(CALError, match=rf"{family}.*{reason}"):
        known.check_family(Model())


def test_a_text_model_is_refused_by_name() -> None:
    config = GemmaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, vocab_size=9
    )
    with pytest.raises(CALError, match=r"'gemma'.*image_token_id"):
        cal.apply(GemmaForCausalLM(config))


def test_the_selftest_finds_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    family = BY_NAME["gemma4"]
    monkeypatch.setattr(known, "SOFT_CAPPED", ())
    wrong = selftest(family.model(), family.batch())
    assert [bool(check.remedy) for check in wrong] == [False, False, False, True]
    assert family.model().training
    nothing = family.batch(rows=0, text_rows=2)
    for name in ("pixel_values", "image_position_ids"):
        nothing.pop(name)
    with pytest.raises(CALError, match="no labelled token"):
        selftest(family.model(), nothing)


def test_the_doctor_tells_what_cal_does_on_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_tiny(tmp_path / "model")
    capsys.readouterr()  # libraries that saving imports say things too
    assert main(["doctor", "--cal", str(tmp_path / "model")]) == 0
    told = capsys.readouterr().out
    assert [line[:2] for line in told.splitlines()] == ["ok"] * 4
    assert "dropping equals masking" in told
    assert main(["doctor", "--cal", str(tmp_path / "nothing")]) == 2


def test_the_support_table_is_what_the_zoo_writes() -> None:
    table = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    assert table == document()
    assert all(f"`{family.name}`" in table for family in FAMILIES)
