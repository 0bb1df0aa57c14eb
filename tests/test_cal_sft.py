"""CALSFTTrainer against TRL's own: its collators, its fused head, and adapters."""

import builtins
import importlib
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Trainer

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError
from tests.test_cal_trainer import EQUAL, STRONG, Gradients, assert_same_steps
from tests.tiny import IMAGE_ID, tiny_model, tiny_processor

datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")

ROWS = 6


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRL reports each trainer to the Hugging Face hub, except in CI; without a network it waits minutes for an answer."""
    monkeypatch.setenv("CI", "1")


def dataset(kind: str, text_only: tuple[int, ...] = (2,)) -> Any:
    """Prompts with completions, or messages; the rows named have no image."""
    rows = []
    for number in range(ROWS):
        images = [] if number in text_only else [Image.new("RGB", (40, 30), (40 * number, 255 - 40 * number, 90))]
        asked = {"role": "user", "content": f"Colour {number}?"}
        answer = {"role": "assistant", "content": "shade" * (1 + number % 3)}
        turns = {"messages": [asked, answer]} if kind == "messages" else {"prompt": [asked], "completion": [answer]}
        rows.append(turns | {"images": images})
    features = datasets.Dataset.from_list([{name: row[name] for name in row if name != "images"} for row in rows]).features
    features["images"] = datasets.List(datasets.Image())
    return datasets.Dataset.from_list(rows, features=features)


def arguments(folder: Path, **settings: Any) -> Any:
    defaults: dict[str, Any] = {"per_device_train_batch_size": 2, "max_steps": 1, "max_grad_norm": 0.0, "logging_steps": 1, "use_cpu": True}
    defaults |= {"report_to": "none", "disable_tqdm": True, "save_strategy": "no", "max_length": None, "bf16": False}
    return trl.SFTConfig(output_dir=str(folder), **(defaults | {"gradient_checkpointing": False} | settings))


def make(kind: type, folder: Path, data: Any, model: Any = None, **settings: Any) -> Any:
    extra = {name: settings.pop(name) for name in ("cal", "peft_config", "eval_dataset", "data_collator") if name in settings}
    model = tiny_model().double() if model is None else model
    return kind(model, arguments(folder, **settings), train_dataset=data, processing_class=tiny_processor(), **extra)


def train(kind: type, folder: Path, data: Any, **settings: Any) -> tuple[Any, Any, Any]:
    trainer, gradients = make(kind, folder, data, **settings), Gradients()
    trainer.add_callback(gradients)
    trainer.train()
    return gradients.steps, trainer.state.log_history, trainer


@pytest.mark.parametrize("checkpointing", [None, True, False])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_equal_bounds_give_the_stock_step(tmp_path: Path, accumulation: int, checkpointing: bool | None) -> None:
    settings: dict[str, Any] = {"gradient_accumulation_steps": accumulation}
    if checkpointing is not None:
        settings |= {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": checkpointing}}
    stock = train(trl.SFTTrainer, tmp_path, dataset("completion"), **settings)
    assert_same_steps(train(cal.CALSFTTrainer, tmp_path, dataset("completion"), cal=EQUAL, **settings), stock)


def test_weights_change_the_step_and_are_logged(tmp_path: Path) -> None:
    stock = train(trl.SFTTrainer, tmp_path, dataset("completion"))
    steps, logs, _ = train(cal.CALSFTTrainer, tmp_path, dataset("completion"), cal=STRONG)
    assert not torch.allclose(steps[0]["lm_head.weight"], stock[0][0]["lm_head.weight"], rtol=1e-3)
    names = {f"cal/{name}" for name in ("weight_mean", "clamped_low", "clamped_high", "delta_mean", "logp_delta_mean")}
    assert names | {"seconds_per_step"} <= next(line for line in logs if "loss" in line).keys()


@pytest.mark.parametrize("config", [EQUAL, CALConfig.published(), CALConfig(normalize="sample")])
def test_placeholders_that_the_collator_labels_are_neither_learnt_nor_counted(tmp_path: Path, config: CALConfig) -> None:
    data = dataset("messages")

    def masked(examples: list[dict[str, Any]]) -> dict[str, Any]:
        batch: dict[str, Any] = stock_collator(examples)
        assert batch["labels"].eq(IMAGE_ID).any(), "TRL's collator no longer labels the image: this test tests nothing"
        return batch | {"labels": batch["labels"].masked_fill(batch["input_ids"] == IMAGE_ID, -100)}

    stock_collator = make(trl.SFTTrainer, tmp_path, data).data_collator
    settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 3}
    found = train(cal.CALSFTTrainer, tmp_path, data, cal=config, **settings)
    assert_same_steps(found, train(cal.CALSFTTrainer, tmp_path, data, cal=config, data_collator=masked, **settings))
    if config is EQUAL:
        assert_same_steps(found, train(trl.SFTTrainer, tmp_path, data, data_collator=masked, **settings))


@pytest.mark.parametrize("kind", ["completion", "messages"])
def test_evaluation_is_plain_likelihood_through_the_fused_head(tmp_path: Path, kind: str) -> None:
    data = dataset(kind)
    trainer = make(cal.CALSFTTrainer, tmp_path, data, cal=STRONG, eval_dataset=data, per_device_eval_batch_size=ROWS)
    found = trainer.evaluate()
    batch = trainer.data_collator([data[number] for number in range(ROWS)])
    batch["labels"] = batch["labels"].masked_fill(batch["input_ids"] == IMAGE_ID, -100)
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    assert found["eval_loss"] == pytest.approx(tiny_model().double().eval()(**batch).loss.item(), rel=1e-6)
    # Only TRL's fused head measures them.
    assert {"eval_entropy", "eval_mean_token_accuracy"} <= found.keys()
    assert trainer.cal.stats.sums is None
    stock = make(trl.SFTTrainer, tmp_path, data, eval_dataset=data, per_device_eval_batch_size=ROWS).evaluate()
    assert (found["eval_loss"] == pytest.approx(stock["eval_loss"], rel=1e-6)) is (kind == "completion")


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_are_trained_as_by_the_stock_trainer(tmp_path: Path, checkpointing: bool) -> None:
    peft = pytest.importorskip("peft")
    settings: dict[str, Any] = {"gradient_checkpointing": checkpointing, "gradient_accumulation_steps": 2}

    def adapters() -> Any:
        return peft.LoraConfig(r=2, target_modules="all-linear", exclude_modules="lm_head", init_lora_weights=False)

    stock = train(trl.SFTTrainer, tmp_path, dataset("completion"), peft_config=adapters(), **settings)
    found = train(cal.CALSFTTrainer, tmp_path, dataset("completion"), peft_config=adapters(), cal=EQUAL, **settings)
    assert all("lora_" in name for name in found[0][0])
    assert_same_steps(found, stock)
    weighted = train(cal.CALSFTTrainer, tmp_path, dataset("completion"), peft_config=adapters(), cal=STRONG, **settings)
    assert weighted[1][0]["loss"] != pytest.approx(stock[1][0]["loss"], rel=1e-4)
    weighted[2].save_model(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def test_a_model_saves_loads_and_generates_after_training(tmp_path: Path) -> None:
    steps, _, trainer = train(cal.CALSFTTrainer, tmp_path, dataset("completion"), cal=STRONG)
    assert steps
    trainer.save_model(str(tmp_path / "end"))
    again = type(tiny_model()).from_pretrained(tmp_path / "end").eval()
    batch = trainer.data_collator([dataset("completion")[0]])
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    double = prompt | {"pixel_values": prompt["pixel_values"].double()}
    expected = trainer.model.eval().generate(**double, max_new_tokens=3)
    assert again.double().generate(**double, max_new_tokens=3).equal(expected)


def test_what_goes_around_the_loss_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CALError, match="loss_type"):
        make(cal.CALSFTTrainer, tmp_path, dataset("completion"), loss_type="dft")
    with pytest.raises(CALError, match="label_smoothing_factor"):
        make(cal.CALSFTTrainer, tmp_path, dataset("completion"), label_smoothing_factor=0.1)
    patched = tiny_model()
    cal.apply(patched)
    with pytest.raises(CALError, match="as it was loaded"):
        make(cal.CALSFTTrainer, tmp_path, dataset("completion"), model=patched)


def test_layer_kernels_of_liger_are_allowed_because_trl_does_not_fuse_the_loss(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="use_liger_kernel"):
        trainer = make(cal.CALSFTTrainer, tmp_path, dataset("completion"), use_liger_kernel=True)
    assert trainer.args.liger_kernel_config == {"fused_linear_cross_entropy": False}


def test_without_trl_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    own = builtins.__import__

    def missing(name: str, *rest: Any, **named: Any) -> Any:
        if name.split(".")[0] == "trl":
            raise ModuleNotFoundError("No module named 'trl'", name="trl")
        return own(name, *rest, **named)

    monkeypatch.delitem(sys.modules, "cal_bench.trainer_plugin.sft", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(CALError, match=r"pip install 'cal-bench\[trl\]'"):
        importlib.import_module("cal_bench.trainer_plugin.sft")


def test_training_takes_the_models_own_loss_and_evaluation_the_fused_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[bool] = []
    own = Trainer.compute_loss

    def noted(trainer: Any, model: Any, *rest: Any, **named: Any) -> Any:
        called.append(model.training)
        return own(trainer, model, *rest, **named)

    monkeypatch.setattr(Trainer, "compute_loss", noted)
    data = dataset("completion")
    _, _, trainer = train(cal.CALSFTTrainer, tmp_path, data, cal=STRONG, eval_dataset=data)
    assert called == [True]
    trainer.evaluate()
    assert called == [True]
