"""CAL beside what else people put on a model: fused kernels, mixtures of experts, flash attention."""

import copy
from pathlib import Path
from types import MethodType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, Trainer, modeling_flash_attention_utils

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin.loss import measure
from tests.test_cal_model import batch
from tests.test_cal_trainer import EQUAL, STRONG, arguments, collate, rows, train, with_cal
from tests.tiny import tiny_model
from tests.vlm_zoo import BY_NAME, GRID, IMAGE, MROPE, QWEN_IDS, TEXT

# --- patches of the forward that come after CAL


def stock_trainer(model: Any, folder: Path) -> Trainer:
    return Trainer(model=model, args=arguments(folder, max_steps=1), train_dataset=rows(), data_collator=collate)


def test_a_forward_replaced_after_apply_stops_the_stock_trainer(tmp_path: Path) -> None:
    model = tiny_model()
    handle = cal.apply(model, STRONG)
    model.forward = MethodType(type(model).forward, model)
    with pytest.raises(CALError, match="trained without CAL"):
        stock_trainer(model, tmp_path).train()
    with pytest.raises(CALError, match="patched again"):
        handle.remove()


def test_evaluation_and_calls_without_labels_are_nobodys_business_after_such_a_patch() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model, STRONG)
    model.forward = MethodType(type(model).forward, model)
    model(**{name: value for name, value in inputs.items() if name != "labels"})
    model.eval()(**inputs)


def test_the_guard_goes_with_the_patch_and_with_a_copy() -> None:
    model, inputs = tiny_model().train(), batch(2)
    handle = cal.apply(model, STRONG)
    twin = copy.deepcopy(model)
    handle.remove()
    model(**inputs)
    assert not model._forward_hooks
    twin(**inputs)
    twin.forward = MethodType(type(twin).forward, twin)
    with pytest.raises(CALError, match="trained without CAL"):
        twin(**inputs)


def test_a_patch_of_the_class_does_not_reach_a_model_that_has_cal(monkeypatch: pytest.MonkeyPatch) -> None:
    # As libraries patch that come before the model is loaded, and those that compile a forward of their own.
    inputs = batch(2)
    expected = tiny_model().train()
    cal.apply(expected, STRONG)
    loss = expected(**inputs).loss
    own = type(expected).forward

    def fused(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = own(self, *args, **kwargs)
        output.loss = None if output.loss is None else output.loss * 0
        return output

    monkeypatch.setattr(type(expected), "forward", fused)
    before, after = tiny_model().train(), tiny_model().train()
    cal.apply(after, STRONG)
    assert before(**inputs).loss == 0
    assert after(**inputs).loss.equal(loss)
    assert expected(**inputs).loss.equal(loss)


def rows_of_two() -> dict[str, Tensor]:
    inputs = collate(rows(2))
    return inputs | {"pixel_values": inputs["pixel_values"].double()}


def test_mixed_precision_around_cal_is_taken_off_with_it(tmp_path: Path) -> None:
    _, _, trainer = train(with_cal(STRONG), tmp_path, tiny_model(), max_steps=1, bf16=True)
    assert trainer.cal.forwards == 1
    assert trainer.model.forward.__func__ is not trainer.cal.patched
    trainer.cal.remove()
    assert "forward" not in trainer.model.__dict__
    stock, inputs = type(trainer.model).forward(trainer.model, **rows_of_two()), rows_of_two()
    assert trainer.model(**inputs).loss.equal(stock.loss)


def test_trls_trainer_without_ours_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trl = pytest.importorskip("trl")
    from tests.test_cal_sft import dataset, make

    monkeypatch.setenv("CI", "1")
    model = tiny_model().double()
    cal.apply(model, STRONG)
    trainer = make(trl.SFTTrainer, tmp_path, dataset("completion"), model=model)
    with pytest.raises(CALError, match="use CALSFTTrainer"):
        trainer.train()


def test_device_hooks_under_trls_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    from accelerate import dispatch_model

    from tests.test_cal_sft import dataset
    from tests.test_cal_sft import train as train_sft

    monkeypatch.setenv("CI", "1")
    plain = train_sft(cal.CALSFTTrainer, tmp_path, dataset("completion"), cal=STRONG)
    hooked = dispatch_model(tiny_model().double(), {"": "cpu"}, force_hooks=True)
    found = train_sft(cal.CALSFTTrainer, tmp_path, dataset("completion"), model=hooked, cal=STRONG)
    assert found[2].cal.forwards == plain[2].cal.forwards > 0
    assert found[1][0]["loss"] == pytest.approx(plain[1][0]["loss"], rel=1e-6)
    with pytest.raises(CALError, match="as it was loaded"):
        train_sft(cal.CALSFTTrainer, tmp_path, dataset("completion"), model=hooked, cal=STRONG)


# --- Liger


def liger() -> Any:
    return pytest.importorskip("liger_kernel.transformers", reason="liger-kernel is not installed: a stand-in of its patch is tested")


def test_ligers_fused_loss_is_refused_before_and_noticed_after(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = liger().apply_liger_kernel_to_llava
    before = tiny_model()
    fuse(model=before, rope=False, rms_norm=False, swiglu=False)
    with pytest.raises(CALError, match="fused_linear_cross_entropy=False"):
        cal.apply(before, STRONG)
    after = tiny_model()
    cal.apply(after, STRONG)
    fuse(model=after, rope=False, rms_norm=False, swiglu=False)
    # Its kernel needs a GPU.
    monkeypatch.setattr("liger_kernel.transformers.model.llava.LigerForCausalLMLoss", lambda **given: torch.zeros(()))
    with pytest.raises(CALError, match="trained without CAL"):
        after.train()(**batch(2))


def test_ligers_patch_of_the_class_leaves_cal_on(monkeypatch: pytest.MonkeyPatch) -> None:
    fuse = liger().apply_liger_kernel_to_llava
    inputs, expected = batch(2), tiny_model().train()
    cal.apply(expected, STRONG)
    # Puts the class back as it was.
    monkeypatch.setattr(type(expected), "forward", type(expected).forward)
    fuse()
    model = tiny_model().train()
    assert type(model).forward.__module__.startswith("liger_kernel")
    cal.apply(model, STRONG)
    assert model(**inputs).loss.equal(expected(**inputs).loss)


# --- mixtures of experts


def mixture(**text: Any) -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1, "mlp_only_layers": []}
    config = AutoConfig.for_model(
        "qwen3_vl_moe",
        text_config=TEXT | experts | {"rope_parameters": MROPE} | text,
        vision_config=GRID | {"deepstack_visual_indexes": [0], "num_position_embeddings": 16},
        **QWEN_IDS,
    )
    torch.manual_seed(0)
    return AutoModelForImageTextToText.from_config(config).train()


def test_the_load_balancing_loss_is_refused_and_without_it_equal_bounds_are_stock() -> None:
    inputs = BY_NAME["qwen3_vl"].batch()
    with pytest.raises(CALError, match="output_router_logits = False"):
        cal.apply(mixture(output_router_logits=True))
    model = mixture()
    stock, balanced = model(**inputs).loss, model(**inputs, output_router_logits=True).loss
    assert not torch.allclose(stock, balanced, rtol=1e-5), "the load-balancing loss is nought: this test tests nothing"
    cal.apply(model, EQUAL)
    torch.testing.assert_close(model(**inputs).loss, stock, rtol=1e-5, atol=0)
    with pytest.raises(CALError, match="load-balancing"):
        model(**inputs, output_router_logits=True)


# --- flash attention


def flash(q: Tensor, k: Tensor, v: Tensor, softmax_scale: float, causal: bool) -> Tensor:
    """What the kernel computes, from [B, S, heads, width]."""
    q, k, v = (states.transpose(1, 2) for states in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=softmax_scale, enable_gqa=True).transpose(1, 2)


def flash_of_lengths(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor, **settings: Any) -> Tensor:
    """The same for texts one behind the other, [N, heads, width]."""
    assert cu_seqlens_q.equal(cu_seqlens_k)
    sizes = cu_seqlens_q.diff().tolist()
    parts = zip(q.split(sizes), k.split(sizes), v.split(sizes), strict=True)
    return torch.cat([flash(*(part[None] for part in text), **settings)[0] for text in parts])


@pytest.fixture
def flash_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' own way to flash attention, with kernels in plain torch at its end."""

    def settings(softmax_scale: float | None = None, is_causal: bool = True, **_: Any) -> dict[str, Any]:
        return {"softmax_scale": softmax_scale, "causal": is_causal}

    kernels = (flash, flash_of_lengths, None, modeling_flash_attention_utils._pad_input, modeling_flash_attention_utils._unpad_input)
    monkeypatch.setattr(modeling_flash_attention_utils, "lazy_import_flash_attention", lambda *_: (kernels, (settings, None)))


def image_first(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Without the three tokens in front of the image, so that the first position left is not 0."""
    length = inputs["input_ids"].shape[1]
    return {name: value[:, 3:] if value.shape[1:2] == (length,) else value for name, value in inputs.items()}


BATCHES = {
    "one row": lambda family: family.batch(rows=1, text_rows=0),
    "one row, image first": lambda family: image_first(family.batch(rows=1, text_rows=0)),
    "padded on the right": lambda family: family.batch(),
    "padded on the left": lambda family: family.batch(left=True),
}


@pytest.mark.usefixtures("flash_attention")
@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "internvl"])
@pytest.mark.parametrize("kind", BATCHES)
@pytest.mark.parametrize("contrast", ["drop", "mask"])
def test_flash_attention_has_the_same_deltas(name: str, kind: str, contrast: str) -> None:
    inputs, model = BATCHES[kind](BY_NAME[name]), BY_NAME[name].model("sdpa").train()
    found, masks = {}, []
    decoder = model.get_decoder()
    decoder.register_forward_pre_hook(lambda module, args, given: masks.append(given["attention_mask"]), with_kwargs=True)
    for attention in ("sdpa", "flash_attention_2"):
        # Past transformers' check for an installed kernel; the vision tower keeps its own.
        decoder.config._attn_implementation = attention
        found[attention] = measure(model, inputs, CALConfig(beta=None, window=1, contrast=contrast))
    expected = found["sdpa"]
    assert expected.delta.abs().max() > 0.01
    torch.testing.assert_close(found["flash_attention_2"].delta, expected.delta, rtol=0, atol=1e-5)
    torch.testing.assert_close(found["flash_attention_2"].nll, expected.nll, rtol=2e-6, atol=1e-5)  # up to 17 nats, which rounding moves
    # Of the four passes, the last is the image-free one with flash attention. Without a mask its positions, which have a gap
    # where the image was, would be read as two texts by other kinds of attention.
    assert masks[-1].shape[0] == int((inputs["input_ids"] == IMAGE).any(dim=1).sum())
    assert masks[-1].dim() == 2


def test_the_best_checkpoint_really_is_loaded(tmp_path: Path) -> None:
    _, _, trainer = train(with_cal(CALConfig(alpha=0.1)), tmp_path, tiny_model(), max_steps=4, save_strategy="steps", save_steps=2)
    last = trainer.model.lm_head.weight.detach().clone()
    trainer.state.best_model_checkpoint = str(tmp_path / "checkpoint-2")
    trainer._load_best_model()
    best = type(trainer.model).from_pretrained(tmp_path / "checkpoint-2", dtype=torch.float64)
    for name, value in best.state_dict().items():
        torch.testing.assert_close(trainer.model.state_dict()[name], value)
    assert not trainer.model.lm_head.weight.equal(last)
