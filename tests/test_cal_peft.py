"""Adapters through PEFT: CAL under them, around the head, and what their dropout does to the weights."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.hooks import remove_hook_from_module
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig, Trainer

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALError, CALTrainer
from cal_bench.trainer_plugin.loss import measure
from tests.test_cal_trainer import EQUAL, STRONG, arguments, assert_same_steps, collate, rows, train
from tests.tiny import assert_same_gradients, save_tiny, tiny_model

peft = pytest.importorskip("peft")

DECODER = r".*language_model.*\.(q|v|up|down)_proj"


def with_adapters(model: Any, **settings: Any) -> Any:
    """Adapters that change what the model says, not the zeros that they start from."""
    torch.manual_seed(3)
    return peft.get_peft_model(model, peft.LoraConfig(**({"r": 2, "target_modules": DECODER, "init_lora_weights": False} | settings)))


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def step(model: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss = model.double().train()(**collate(rows(3))).loss
    loss.backward()
    return loss.detach().double(), gradients(model)


def test_applied_before_and_after_wrapping_is_the_same() -> None:
    before, after = tiny_model(), with_adapters(tiny_model())
    handle = cal.apply(before, STRONG)
    before = with_adapters(before)
    cal.apply(after.get_base_model(), STRONG)
    first, second = step(before), step(after)
    assert handle.stats.sums is not None
    assert all("lora_" in name for name in first[1])
    assert first[0].equal(second[0])
    assert_same_gradients(second[1], first[1])
    assert not torch.allclose(first[0], step(with_adapters(tiny_model()))[0], rtol=1e-3)


def test_applied_to_the_wrapper_is_the_same() -> None:
    inner, outer = with_adapters(tiny_model()), with_adapters(tiny_model())
    cal.apply(inner.get_base_model(), STRONG)
    cal.apply(outer, STRONG)
    assert_same_gradients(step(outer)[1], step(inner)[1])


@pytest.mark.parametrize("settings", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": DECODER + "|lm_head"}], ids=str)
def test_equal_bounds_give_the_stock_step(settings: dict[str, Any]) -> None:
    model = with_adapters(tiny_model(), **settings)
    stock = step(copy.deepcopy(model))
    cal.apply(model.get_base_model(), EQUAL)
    found = step(model)
    torch.testing.assert_close(found[0], stock[0], rtol=1e-6, atol=0)
    assert found[1].keys() == stock[1].keys()
    assert_same_gradients(found[1], stock[1])
    assert any("lm_head" in name for name in found[1]) is bool(settings)


@pytest.mark.parametrize("checkpointing", [{}, {"activation_checkpointing": True}], ids=["plain", "checkpointed"])
def test_the_trainer_takes_a_wrapped_model(tmp_path: Path, checkpointing: dict[str, Any]) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1} | checkpointing
    stock = train(Trainer, tmp_path, with_adapters(tiny_model()), **settings)
    found = train(lambda **given: CALTrainer(**given, cal=EQUAL), tmp_path, with_adapters(tiny_model()), **settings)
    assert_same_steps(found, stock)
    assert "cal/weight_mean" in found[1][0]


def test_adapters_save_load_merge_and_generate(tmp_path: Path) -> None:
    trainer = train(lambda **given: CALTrainer(**given, cal=STRONG), tmp_path, with_adapters(tiny_model()), max_steps=1)[2]
    trainer.save_model(str(tmp_path / "adapter"))
    inputs = collate(rows(2))
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"pixel_values": inputs["pixel_values"].double()}
    expected = trainer.model.eval()(**prompt).logits
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "adapter").double().eval()
    torch.testing.assert_close(loaded(**prompt).logits, expected, rtol=1e-5, atol=1e-4)
    merged = trainer.model.merge_and_unload()
    torch.testing.assert_close(merged(**prompt).logits, expected, rtol=1e-5, atol=1e-4)
    assert merged.generate(**prompt, max_new_tokens=3).shape == (2, inputs["input_ids"].shape[1] + 3)


def test_adapter_dropout_is_warned_of_because_it_makes_the_weights_noise(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    def made(dropout: float) -> Any:
        model = with_adapters(tiny_model(), lora_dropout=dropout)
        CALTrainer(model=model, args=arguments(tmp_path), train_dataset=rows(), data_collator=collate)
        return model.get_base_model().train()

    def spread(model: Any) -> float:
        return (measure(model, inputs, STRONG).delta - measure(model, inputs, STRONG).delta).abs().max().item()

    inputs = collate(rows(2))
    assert spread(made(0.0)) == 0
    assert not [warning for warning in recwarn if "lora_dropout" in str(warning.message)]
    with pytest.warns(UserWarning, match="lora_dropout=0"):
        noisy = made(0.3)
    assert spread(noisy) > 0.01


def with_hooks(model: Any) -> Any:
    """As quantised models, and those loaded with a device_map over several devices, always are."""
    return dispatch_model(model, {"": "cpu"}, force_hooks=True)


def test_a_model_with_device_hooks_is_patched_inside_them_and_given_back() -> None:
    expected = step(_patched(tiny_model()))
    hooked = with_hooks(tiny_model().double())
    outer, inner = hooked.forward, hooked._old_forward
    handle = cal.apply(hooked, STRONG)
    found = step(hooked)
    assert found[0].equal(expected[0])
    assert_same_gradients(found[1], expected[1])
    assert handle.forwards == 1
    # The hooks are still what is called, on the model and on the head.
    assert hooked.forward is outer
    assert hooked.lm_head.forward.func.__name__ == "new_forward"
    handle.remove()
    assert hooked.forward is outer
    assert hooked._old_forward == inner
    assert not torch.allclose(step(hooked)[0], expected[0], rtol=1e-3)
    cal.apply(hooked, STRONG)
    assert step(hooked)[0].equal(expected[0])


def _patched(model: Any) -> Any:
    cal.apply(model, STRONG)
    return model


def test_device_hooks_may_come_after_cal_and_go_before_it() -> None:
    expected = step(_patched(tiny_model()))[0]
    model = tiny_model().double()
    handle = cal.apply(model, STRONG)
    with_hooks(model)
    assert step(model)[0].equal(expected)
    remove_hook_from_module(model, recurse=True)
    assert step(model)[0].equal(expected)
    handle.remove()
    assert "forward" not in model.__dict__


def test_a_copy_of_a_model_with_device_hooks_trains_itself() -> None:
    model = with_hooks(tiny_model().double()).train()
    handle = cal.apply(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert twin(**collate(rows(2))).loss.item() == pytest.approx(torch.tensor(264.0).log().item())
    assert handle.forwards == 0
    assert model(**collate(rows(2))).loss.item() != pytest.approx(torch.tensor(264.0).log().item())


def test_a_patch_inside_the_device_hooks_is_refused() -> None:
    model = tiny_model()
    model.forward = lambda **inputs: None
    with pytest.raises(CALError, match="already patched"):
        cal.apply(with_hooks(model))


@pytest.mark.parametrize("hooked", [False, True])
def test_adapters_on_a_quantised_model(tmp_path: Path, hooked: bool) -> None:
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: QLoRA is tested up to its device hooks only")
    four_bit = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    folder = save_tiny(tmp_path / "model")

    def quantised() -> Any:
        model = AutoModelForImageTextToText.from_pretrained(folder, quantization_config=four_bit, dtype=torch.float32)
        model = peft.prepare_model_for_kbit_training(with_hooks(model) if hooked else model)
        return with_adapters(model).train()

    losses = []
    for config in (None, EQUAL, STRONG):
        model = quantised()
        assert type(model.get_base_model().get_decoder().layers[0].mlp.up_proj.base_layer).__name__ == "Linear4bit"
        handle = config and cal.apply(model, config)
        loss = model(**collate(rows(3))).loss
        loss.backward()
        losses.append((loss.item(), gradients(model)))
        assert handle is None or handle.forwards == 1
    (stock, expected), (equal, found), (strong, _) = losses
    assert equal == pytest.approx(stock, rel=1e-5)
    assert_same_gradients(found, expected, 1e-4)
    assert strong != pytest.approx(stock, rel=1e-3)
