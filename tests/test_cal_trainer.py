"""CALTrainer against the stock Trainer: with equal bounds nothing may differ, and with CAL the logs say what it did."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError, CALMixin, CALTrainer
from tests.test_cal_model import batch
from tests.tiny import IMAGE_ID, assert_same_gradients, tiny_model

EQUAL = CALConfig(alpha=2, beta=2)
STRONG = CALConfig(alpha=0, beta=None)


class Gradients(TrainerCallback):
    """Keeps every gradient of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        named = rest["model"].named_parameters()
        self.steps.append({name: parameter.grad.clone() for name, parameter in named if parameter.grad is not None})


def rows(count: int = 12) -> list[dict[str, torch.Tensor]]:
    """Rows with two to six labels; every third is text alone."""
    found = []
    for number in range(count):
        row = {name: value[0] for name, value in batch(int(number % 3 != 2), int(number % 3 == 2), 16, number).items()}
        row["labels"][: 9 + number % 5] = -100
        found.append(row)
    return found


def collate(features: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    together = {name: torch.stack([row[name] for row in features]) for name in ("input_ids", "labels", "attention_mask")}
    pixels = [row["pixel_values"] for row in features if "pixel_values" in row]
    return together | ({"pixel_values": torch.stack(pixels)} if pixels else {})


def arguments(folder: Path, **settings: Any) -> TrainingArguments:
    defaults = {"per_device_train_batch_size": 2, "max_steps": 2, "learning_rate": 1e-3, "max_grad_norm": 0.0, "logging_steps": 1}
    defaults |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "remove_unused_columns": False}
    return TrainingArguments(output_dir=str(folder), **(defaults | settings))


Trained = tuple[list[dict[str, torch.Tensor]], list[dict[str, float]], Any]


def train(make: Callable[..., Trainer], folder: Path, model: Any, **settings: Any) -> Trained:
    gradients = Gradients()
    shared = {"train_dataset": rows(), "data_collator": collate, "callbacks": [gradients]}
    # Double precision: what is left of a difference is not rounding, which random weights enlarge.
    trainer = make(model=model.double(), args=arguments(folder, **settings), **shared)
    trainer.train()
    return gradients.steps, trainer.state.log_history, trainer


def with_cal(config: CALConfig) -> Callable[..., Trainer]:
    return lambda **arguments: CALTrainer(**arguments, cal=config)


def assert_same_steps(found: Trained, expected: Trained, relative: float = 1e-6) -> None:
    for now, before in zip(found[0], expected[0], strict=True):
        assert now.keys() == before.keys()
        assert_same_gradients(now, before, relative)
    losses = [[line["loss"] for line in logs if "loss" in line] for logs in (found[1], expected[1])]
    assert losses[0] == pytest.approx(losses[1], rel=relative)


@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("normalize", ["tokens", "global"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equal_bounds_give_the_stock_steps(tmp_path: Path, accumulation: int, normalize: str, dropout: float) -> None:
    settings = {"gradient_accumulation_steps": accumulation, "max_steps": 1}
    config = CALConfig(alpha=2, beta=2, normalize=normalize)
    stock = train(Trainer, tmp_path, tiny_model(dropout=dropout), **settings)
    found = train(with_cal(config), tmp_path, tiny_model(dropout=dropout), **settings)
    assert len(found[0]) == 1
    assert_same_steps(found, stock)


def test_later_steps_stay_equal_with_dropout_and_accumulation(tmp_path: Path) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_steps": 3, "learning_rate": 1e-4, "optim": "sgd"}
    stock = train(Trainer, tmp_path, tiny_model(dropout=0.3), **settings)
    assert_same_steps(train(with_cal(EQUAL), tmp_path, tiny_model(dropout=0.3), **settings), stock, relative=1e-5)


def test_the_patch_alone_equals_cal_trainer_under_the_stock_trainer(tmp_path: Path) -> None:
    def patched(model: Any, **arguments: Any) -> Trainer:
        cal.apply(model, STRONG)
        return Trainer(model=model, **arguments)

    settings = {"gradient_accumulation_steps": 3, "max_steps": 1}
    expected = train(with_cal(STRONG), tmp_path, tiny_model(), **settings)
    assert_same_steps(train(patched, tmp_path, tiny_model(), **settings), expected)
    stock = train(Trainer, tmp_path, tiny_model(), **settings)
    assert not torch.allclose(stock[0][0]["lm_head.weight"], expected[0][0]["lm_head.weight"], rtol=1e-3)


@pytest.mark.parametrize("normalize", ["micro", "sample"])
def test_means_per_micro_batch_are_averaged_over_the_accumulation(tmp_path: Path, normalize: str) -> None:
    config = CALConfig(normalize=normalize)
    steps, logs, trainer = train(with_cal(config), tmp_path, tiny_model(), gradient_accumulation_steps=3, max_steps=1)
    model = tiny_model().double().train()
    cal.apply(model, config)
    order = [trainer.data_collator(part) for part in _parts(trainer)]
    losses = [model(**part).loss for part in order]
    loss = torch.stack(losses).mean()
    loss.backward()
    assert logs[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(steps[0]["lm_head.weight"], model.lm_head.weight.grad, rtol=1e-4, atol=1e-5)


def _parts(trainer: Trainer) -> list[list[dict[str, torch.Tensor]]]:
    """The micro-batches of the first step, in the order that the trainer draws them."""
    from transformers import set_seed

    set_seed(trainer.args.seed)
    found: list[dict[str, torch.Tensor]] = []
    original, trainer.data_collator = trainer.data_collator, lambda features: found.append(features) or collate(features)
    iterator = iter(trainer.get_train_dataloader())
    for _ in range(3):
        next(iterator)
    trainer.data_collator = original
    return found[:3]


def test_labels_on_image_placeholders_are_not_counted(tmp_path: Path) -> None:
    def spoilt(features: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        together = collate(features)
        together["labels"] = together["labels"].where(together["input_ids"] != IMAGE_ID, IMAGE_ID)
        return together

    def make(**arguments: Any) -> Trainer:
        return CALTrainer(**(arguments | {"data_collator": spoilt}), cal=STRONG)

    settings = {"gradient_accumulation_steps": 2, "max_steps": 1}
    assert_same_steps(train(make, tmp_path, tiny_model(), **settings), train(with_cal(STRONG), tmp_path, tiny_model(), **settings))


@pytest.mark.parametrize(
    "make", [with_cal(EQUAL), lambda model, **arguments: _patched(model, EQUAL, **arguments)], ids=["trainer", "patch"]
)
def test_a_model_that_takes_no_count_follows_the_stock_rule_too(tmp_path: Path, make: Callable[..., Trainer]) -> None:
    # Qwen2.5-VL and Qwen3-VL: the stock loss is the mean of the means of the micro-batches.
    def uncounted() -> Any:
        model = tiny_model()
        model.accepts_loss_kwargs = False
        return model

    settings = {"gradient_accumulation_steps": 3, "max_steps": 1}
    stock = train(Trainer, tmp_path, uncounted(), **settings)
    assert_same_steps(train(make, tmp_path, uncounted(), **settings), stock)
    counted = train(Trainer, tmp_path, tiny_model(), **settings)
    assert counted[1][0]["loss"] != pytest.approx(stock[1][0]["loss"], rel=1e-4)


def _patched(model: Any, config: CALConfig, **arguments: Any) -> Trainer:
    cal.apply(model, config)
    return Trainer(model=model, **arguments)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_nothing(tmp_path: Path, reentrant: bool) -> None:
    settings = {"gradient_accumulation_steps": 2, "max_steps": 1}
    plain = train(with_cal(STRONG), tmp_path, tiny_model(dropout=0.3), **settings)
    settings |= {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": reentrant}}
    found = train(with_cal(STRONG), tmp_path, tiny_model(dropout=0.3), **settings)
    assert found[2].model.get_decoder().gradient_checkpointing
    assert_same_steps(found, plain)


@pytest.mark.parametrize(
    "backend", ["eager", pytest.param("inductor", marks=pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs g++"))]
)
def test_compiled_decoder_layers_change_nothing(backend: str) -> None:
    steps = []
    for compiled in (False, True):
        model = tiny_model().double().train()
        cal.apply(model, STRONG)
        layers = [layer.compile(backend=backend, dynamic=True) for layer in model.get_decoder().layers if compiled]
        assert len(layers) == 2 * compiled
        model(**collate(rows(2))).loss.backward()
        steps.append({name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None})
    assert_same_gradients(steps[1], steps[0])


def test_a_plain_loop_with_accumulation_is_the_stock_trainer(tmp_path: Path) -> None:
    steps, logs, trainer = train(Trainer, tmp_path, tiny_model(), gradient_accumulation_steps=3, max_steps=1)
    model = tiny_model().double().train()
    cal.apply(model, EQUAL)
    parts = [collate(part) for part in _parts(trainer)]
    labels = sum((part["labels"][:, 1:] != -100).sum() for part in parts)
    losses = [model(**part, num_items_in_batch=labels).loss for part in parts]
    torch.stack(losses).sum().backward()
    assert sum(losses).item() == pytest.approx(logs[0]["loss"], rel=1e-6)
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert_same_gradients(found, steps[0])


def test_a_trained_model_saves_loads_copies_and_generates(tmp_path: Path) -> None:
    _, _, trainer = train(with_cal(CALConfig()), tmp_path, tiny_model())
    trainer.save_model(str(tmp_path / "end"))
    inputs = collate(rows(2))
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask")} | {"pixel_values": inputs["pixel_values"].double()}
    trained = trainer.model.eval()
    expected = trained.generate(**prompt, max_new_tokens=3)
    assert type(trained).from_pretrained(tmp_path / "end").double().eval().generate(**prompt, max_new_tokens=3).equal(expected)
    twin = copy.deepcopy(trained)
    assert twin.generate(**prompt, max_new_tokens=3).equal(expected)
    # Both still train with CAL, each on its own weights.
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert twin.train()(**inputs).loss.item() == pytest.approx(torch.tensor(264.0).log().item())
    assert trained.train()(**inputs).loss.item() != pytest.approx(torch.tensor(264.0).log().item())


def test_logs_and_report_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[dict[str, float]] = []

    class Report(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            reported.append(rest["logs"])

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "tensorboard", Report)
    settings = {"max_steps": 4, "logging_steps": 2, "report_to": "tensorboard", "gradient_accumulation_steps": 2}
    _, logs, trainer = train(with_cal(STRONG), tmp_path, tiny_model(), **settings)
    names = {f"cal/{name}" for name in ("weight_mean", "clamped_low", "clamped_high", "delta_mean", "logp_delta_mean")}
    lines = [line for line in logs if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4]
    for line in lines:
        assert names | {"seconds_per_step"} <= line.keys()
        assert line["cal/clamped_high"] == 0
        assert 0 < line["cal/clamped_low"] < 1
        assert line["cal/weight_mean"] > line["cal/delta_mean"]
        assert 0 < line["seconds_per_step"] < 60
    assert lines[0]["cal/delta_mean"] != lines[1]["cal/delta_mean"]
    assert [line["cal/weight_mean"] for line in reported if "loss" in line] == [line["cal/weight_mean"] for line in lines]
    assert trainer.cal.stats.sums is None


def test_evaluation_loss_is_cross_entropy(tmp_path: Path) -> None:
    trainer = CALTrainer(model=tiny_model(), args=arguments(tmp_path), eval_dataset=rows(4), data_collator=collate, cal=STRONG)
    stock = Trainer(model=tiny_model(), args=arguments(tmp_path), eval_dataset=rows(4), data_collator=collate)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(stock.evaluate()["eval_loss"], rel=1e-6)


def test_evaluation_neither_scores_nor_counts_labels_on_placeholders(tmp_path: Path) -> None:
    def spoilt(features: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        together = collate(features)
        return together | {"labels": together["labels"].where(together["input_ids"] != IMAGE_ID, IMAGE_ID)}

    shared = {"args": arguments(tmp_path), "eval_dataset": rows(4), "cal": STRONG}
    clean, spoiling = (CALTrainer(model=tiny_model(), data_collator=way, **shared) for way in (collate, spoilt))
    assert spoiling.evaluate()["eval_loss"] == pytest.approx(clean.evaluate()["eval_loss"], rel=1e-6)


def test_a_checkpoint_resumes_to_the_same_end(tmp_path: Path) -> None:
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    _, _, trainer = train(with_cal(STRONG), tmp_path, tiny_model(dropout=0.3), **settings)
    assert json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["global_step"] == 2
    for where in (str(tmp_path / "checkpoint-2"), True):
        if where is True:
            shutil.rmtree(tmp_path / "checkpoint-4")
        gradients = Gradients()
        again = tiny_model(dropout=0.3, seed=1).double()
        shared = {"args": arguments(tmp_path, **settings), "train_dataset": rows(), "data_collator": collate}
        resumed = CALTrainer(model=again, **shared, callbacks=[gradients], cal=STRONG)
        resumed.train(resume_from_checkpoint=where)
        assert len(gradients.steps) == 2
        for name, value in trainer.model.state_dict().items():
            torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=1e-6, atol=1e-9)


def test_labels_that_a_stock_trainer_takes_away_are_warned_of(tmp_path: Path) -> None:
    model = tiny_model()
    cal.apply(model)
    with pytest.warns(UserWarning, match="label_smoothing_factor"):
        train(Trainer, tmp_path, model, label_smoothing_factor=0.1)


@pytest.mark.parametrize(
    ("settings", "extra", "named"),
    [
        ({}, {"model": None, "model_init": lambda: tiny_model()}, "model_init"),
        ({"label_smoothing_factor": 0.1}, {}, "label_smoothing_factor"),
        ({}, {"compute_loss_func": lambda *args, **kwargs: torch.zeros(())}, "compute_loss_func"),
    ],
)
def test_arguments_that_take_labels_or_model_away_are_refused(
    tmp_path: Path, settings: dict[str, Any], extra: dict[str, Any], named: str
) -> None:
    with pytest.raises(CALError, match=named):
        CALTrainer(**{"model": tiny_model(), **extra}, args=arguments(tmp_path, **settings), train_dataset=rows(), data_collator=collate)


def test_several_devices_in_one_process_and_fused_kernels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several, fused = arguments(tmp_path), arguments(tmp_path)
    several._n_gpu = 2
    with pytest.raises(CALError, match="DataParallel"):
        CALTrainer(model=tiny_model(), args=several, train_dataset=rows(), data_collator=collate)
    fused.use_liger_kernel = True
    with pytest.raises(CALError, match="use_liger_kernel"):
        CALTrainer(model=tiny_model(), args=fused, train_dataset=rows(), data_collator=collate)
    fused.liger_kernel_config = {"fused_linear_cross_entropy": False, "rms_norm": True}
    CALTrainer(model=tiny_model(), args=fused, train_dataset=rows(), data_collator=collate)


@pytest.mark.parametrize("enabled", ["cp_enabled", "sp_enabled"])
def test_parallelism_over_the_sequence_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str) -> None:
    # A real one needs several processes.
    parallel = SimpleNamespace(**({"cp_enabled": False, "sp_enabled": False, "sp_backend": "none", "tp_size": 1} | {enabled: True}))

    class Parallel(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            monkeypatch.setattr(Accelerator, "parallelism_config", parallel)

    class CALParallel(CALMixin, Parallel):
        pass

    with pytest.raises(CALError, match="sequence parallelism"):
        CALParallel(model=tiny_model(), args=arguments(tmp_path), train_dataset=rows(), data_collator=collate)


def test_a_forward_that_is_replaced_after_the_trainer_is_made_is_noticed(tmp_path: Path) -> None:
    trainer = CALTrainer(model=tiny_model(), args=arguments(tmp_path), train_dataset=rows(), data_collator=collate)
    # As libraries of fused kernels do.
    trainer.model.forward = MethodType(type(trainer.model).forward, trainer.model)
    with pytest.raises(CALError, match="trained without CAL"):
        trainer.train()
