"""Options beyond the paper: each in the limit where it must change nothing, and in one case where its numbers are known."""

import copy
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError, CALTrainer
from cal_bench.trainer_plugin.loss import Step, measure
from cal_bench.trainer_plugin.quantile import MEMORY, RunningQuantile
from tests.test_cal_model import batch
from tests.test_cal_parallel import enter, in_two_processes
from tests.test_cal_trainer import Gradients, arguments, assert_same_steps, collate, rows, train, with_cal
from tests.tiny import assert_same_gradients, tiny_model

WIDE = CALConfig(alpha=0.1, beta=None)


def gradients(model: Any) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def step(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    loss = model(**inputs).loss
    loss.backward()
    return loss.detach(), copy.deepcopy(gradients(model))


def patched(config: CALConfig, **kind: Any) -> tuple[Any, cal.Handle]:
    model = tiny_model(**kind).train()
    return model, cal.apply(model, config)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"quantile": 0.0}, "quantile"),
        ({"quantile": 1.1}, "quantile"),
        ({"quantile": float("nan")}, "quantile"),
        ({"quantile": 0.9, "alpha": 0}, "alpha above 0"),
        ({"warmup": -1}, "warmup"),
        ({"every": 0}, "every"),
        ({"reference": "base"}, "adapters_off"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(CALError, match=named):
        CALConfig(**wrong)


# --- the upper bound as a quantile


@pytest.mark.parametrize("signal", ["logit", "logp"])
@pytest.mark.parametrize("pooling", ["within_row", "published"])
def test_a_quantile_of_one_is_no_bound(signal: str, pooling: str) -> None:
    free = replace(WIDE, signal=signal, pooling=pooling)
    model, handle = patched(replace(free, quantile=1.0))
    expected = tiny_model().train()
    cal.apply(expected, free)
    for seed in range(2):
        found, wanted = (step(one, batch(2, 1, seed=seed)) for one in (model, expected))
        assert found[0].equal(wanted[0])
        assert_same_gradients(found[1], wanted[1])
    assert handle.stats.means(handle.stats.take())["clamped_high"] == 0


@pytest.mark.parametrize("signal", ["logit", "logp"])
def test_the_first_bound_is_the_quantile_of_the_first_batch(signal: str) -> None:
    model, handle = patched(replace(WIDE, signal=signal, quantile=0.9))
    inputs = batch(4, 2)
    free = measure(model, inputs, replace(WIDE, signal=signal))
    bound = free.delta[free.tokens.seeing].quantile(0.9).item()
    assert bound > WIDE.alpha
    found = step(model, inputs)
    assert handle.quantile is not None
    assert handle.quantile.bound == pytest.approx(bound)
    seeing = free.delta[free.tokens.seeing]
    assert handle.stats.means(handle.stats.take())["clamped_high"] == pytest.approx((seeing > bound).float().mean().item())
    fixed, _ = patched(replace(WIDE, signal=signal, beta=bound))
    torch.testing.assert_close(found[0], step(fixed, inputs)[0])


def test_the_bound_forgets_slowly_counts_tokens_and_never_falls_below_alpha() -> None:
    running = RunningQuantile(level=0.5, floor=1.0)
    assert running.bound is None
    running.update(torch.tensor([2.0, 4.0, 6.0]))
    assert running.bound == 4
    running.update(torch.zeros(0))
    running.update(torch.tensor([float("nan"), float("inf")]))
    assert running.bound == 4
    running.update(torch.tensor([9.0]))
    assert running.bound == pytest.approx((MEMORY * 3 * 4 + 9) / (MEMORY * 3 + 1))
    for _ in range(2000):
        running.update(torch.tensor([-5.0, -5.0]))
    assert running.bound == 1


def test_the_bound_survives_checkpoint_and_resume(tmp_path: Path) -> None:
    config = CALConfig(alpha=0.1, quantile=0.9, warmup=3)
    settings = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    whole = train(with_cal(config), tmp_path, tiny_model(), **settings)
    kept = json.loads((tmp_path / "checkpoint-2" / "cal_state.json").read_text())
    assert kept["tokens"] > 0
    shutil.rmtree(tmp_path / "checkpoint-4")
    callback = Gradients()
    again = CALTrainer(
        model=tiny_model(seed=1).double(), args=arguments(tmp_path, **settings), train_dataset=rows(), data_collator=collate,
        callbacks=[callback], cal=config,
    )  # fmt: skip
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for found, expected in zip(callback.steps, whole[0][2:], strict=True):
        assert_same_gradients(found, expected)
    assert again.cal.quantile.state() == pytest.approx(whole[2].cal.quantile.state())
    other = CALTrainer(
        model=tiny_model().double(), args=arguments(tmp_path, **settings), train_dataset=rows(), data_collator=collate,
        cal=replace(config, quantile=0.8),
    )  # fmt: skip
    with pytest.raises(CALError, match=r"0\.9.*0\.8"):
        other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    for spoil in (lambda file: file.write_text("{"), Path.unlink):
        spoil(tmp_path / "checkpoint-2" / "cal_state.json")
        with pytest.raises(CALError, match=r"cal_state\.json can't be read"):
            other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))


def test_a_deep_copy_goes_on_from_the_bound_and_keeps_its_own() -> None:
    model, handle = patched(replace(WIDE, quantile=0.9))
    step(model, batch(3))
    before = handle.quantile.bound
    twin = copy.deepcopy(model)
    step(twin, batch(3, seed=5))
    assert handle.quantile.bound == before
    assert twin._cal_handle.quantile.bound != before


def quantile_worker(rank: int, port: int, folder: Path) -> None:
    enter(rank, port)
    dist.init_process_group("gloo")
    running = RunningQuantile(level=0.9, floor=0.0)
    bounds = []
    for deltas in (halves(0), halves(1), halves(2)):
        running.update(deltas[rank])
        bounds.append(running.bound)
    torch.save(bounds, folder / f"{rank}.pt")
    dist.destroy_process_group()


def halves(seed: int) -> tuple[Tensor, Tensor]:
    """Deltas of two processes, of other sizes; those of the second are larger, and at first there are none."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(40 + seed, generator=generator), 5 + torch.randn(7 * seed, generator=generator)


def test_all_processes_have_the_bound_of_one_with_all_the_data(tmp_path: Path) -> None:
    alone, expected = RunningQuantile(level=0.9, floor=0.0), []
    for seed in range(3):
        alone.update(torch.cat(halves(seed)))
        expected.append(alone.bound)
    first, second = in_two_processes(quantile_worker, tmp_path)
    assert first == second == pytest.approx(expected)


# --- strength


def test_strength_nought_is_the_stock_step_whatever_the_weights(tmp_path: Path) -> None:
    inputs = batch(2, 1)
    stock = step(tiny_model().train(), inputs)
    for config in (CALConfig(alpha=0, beta=None, warmup=5), CALConfig(alpha=0, beta=None, every=2), CALConfig(quantile=0.5, warmup=5)):
        model, handle = patched(config)
        handle.step = 5 if config.every == 2 else 0
        found = step(model, inputs)
        torch.testing.assert_close(found[0], stock[0], rtol=1e-6, atol=0)
        assert_same_gradients(found[1], stock[1])
        # Nothing was contrasted, so that there is nothing to report or to learn from.
        assert handle.forwards == 1
        assert handle.stats.sums is None
        assert handle.quantile is None or handle.quantile.bound is None


def test_weights_grow_from_one_to_their_own(tmp_path: Path) -> None:
    model, inputs = tiny_model().train(), batch(2)
    whole = measure(model, inputs, WIDE).tokens.weights
    half = measure(model, inputs, WIDE, Step(strength=0.5)).tokens.weights
    torch.testing.assert_close(half, 1 + 0.5 * (whole - 1))
    config = CALConfig(warmup=4)
    assert [config.strength(number) for number in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
    assert CALConfig().strength(0) == 1


def test_the_patch_alone_counts_forwards_and_the_trainer_counts_steps(tmp_path: Path) -> None:
    config = replace(WIDE, warmup=2)
    model, handle = patched(config)
    plain, _ = patched(WIDE)
    stock, inputs = tiny_model().train(), batch(2)
    losses = [step(model, inputs)[0] for _ in range(4)]
    torch.testing.assert_close(losses[0], step(stock, inputs)[0])
    assert losses[2].equal(step(plain, inputs)[0])
    assert losses[3].equal(losses[2])
    assert handle.forwards == 4
    model.eval()(**inputs)
    assert handle.forwards == 4
    trainer = train(with_cal(config), tmp_path, tiny_model(), gradient_accumulation_steps=3, max_steps=2)[2]
    assert trainer.cal.step == 1
    assert trainer.cal.strength == 0.5


def test_a_warm_up_of_no_steps_is_none(tmp_path: Path) -> None:
    settings = {"gradient_accumulation_steps": 2}
    expected = train(with_cal(WIDE), tmp_path, tiny_model(dropout=0.3), **settings)
    for config in (replace(WIDE, warmup=0), replace(WIDE, every=1)):
        assert_same_steps(train(with_cal(config), tmp_path, tiny_model(dropout=0.3), **settings), expected)


# --- every so many steps


def test_the_steps_between_are_stock_and_log_nothing(tmp_path: Path) -> None:
    from transformers import Trainer

    settings = {"gradient_accumulation_steps": 2, "max_steps": 4, "learning_rate": 0.0}
    stock = train(Trainer, tmp_path, tiny_model(), **settings)
    always = train(with_cal(WIDE), tmp_path, tiny_model(), **settings)
    found = train(with_cal(replace(WIDE, every=2)), tmp_path, tiny_model(), **settings)
    for number in range(4):
        assert_same_gradients(found[0][number], (stock if number % 2 else always)[0][number])
        assert ("cal/weight_mean" in found[1][number]) is (number % 2 == 0)
    # With a log every other step, each has the weights of the contrasted one, and the log-probabilities too.
    logs = train(with_cal(replace(WIDE, every=2)), tmp_path, tiny_model(), **(settings | {"logging_steps": 2}))[1]
    assert [("cal/weight_mean" in line, "cal/logp_delta_mean" in line) for line in logs if "loss" in line] == [(True, True)] * 2


def test_steps_between_run_the_decoder_once() -> None:
    model, _ = patched(replace(WIDE, every=3))
    calls: list[int] = []
    model.get_decoder().register_forward_hook(lambda *given: calls.append(1))
    counts = []
    for _ in range(4):
        calls.clear()
        step(model, batch(2))
        counts.append(len(calls))
    assert counts == [2, 1, 1, 2]


def test_a_mean_per_sample_stays_one_between(tmp_path: Path) -> None:
    inputs = batch(2, 1)
    between, handle = patched(CALConfig(alpha=0, beta=None, normalize="sample", every=2))
    handle.step = 1
    equal, _ = patched(CALConfig(alpha=1, beta=1, normalize="sample"))
    torch.testing.assert_close(step(between, inputs)[0], step(equal, inputs)[0])


# --- the model without its adapters as reference


def with_adapters(model: Any, trained: bool = True, **settings: Any) -> Any:
    peft = pytest.importorskip("peft")
    torch.manual_seed(3)
    chosen = {"r": 2, "target_modules": r".*language_model.*\.(q|v|up|down)_proj", "init_lora_weights": not trained}
    return peft.get_peft_model(model, peft.LoraConfig(**(chosen | settings))).train()


OFF = replace(WIDE, reference="adapters_off")
HEADS = [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": r".*language_model.*\.(q|v)_proj|lm_head"}]


@pytest.mark.parametrize("settings", HEADS, ids=str)
def test_adapters_of_nought_make_no_difference(settings: dict[str, Any]) -> None:
    inputs, losses = batch(2, 1), []
    for config in (WIDE, OFF):
        model = with_adapters(tiny_model(), trained=False, **settings)
        cal.apply(model, config)
        losses.append(step(model, inputs))
    torch.testing.assert_close(losses[1][0], losses[0][0])
    assert_same_gradients(losses[1][1], losses[0][1], 1e-5)


@pytest.mark.parametrize("signal", ["logit", "logp"])
@pytest.mark.parametrize("settings", HEADS, ids=str)
def test_deltas_are_those_of_the_model_without_adapters(settings: dict[str, Any], signal: str) -> None:
    inputs, config = batch(2, 1), replace(OFF, signal=signal)
    bare = measure(tiny_model().train(), inputs, replace(config, reference="trained"))
    model = with_adapters(tiny_model(), **settings)
    frozen = {name: value.requires_grad for name, value in model.named_parameters()}
    if "modules_to_save" in settings:
        with torch.no_grad():
            model.get_base_model().lm_head.modules_to_save["default"].weight.mul_(2)
    found = measure(model.get_base_model(), inputs, config)
    own = measure(model.get_base_model(), inputs, replace(config, reference="trained"))
    torch.testing.assert_close(found.delta, bare.delta, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(own.delta, bare.delta, rtol=1e-2)
    # What is learnt is still the adapted model's likelihood.
    torch.testing.assert_close(found.nll, own.nll)
    assert {name: value.requires_grad for name, value in model.named_parameters()} == frozen


def test_dropout_draws_the_same_with_and_without_a_reference() -> None:
    inputs, ends = batch(2, 1), []
    for config in (replace(WIDE, alpha=2, beta=2), replace(OFF, alpha=2, beta=2)):
        model = with_adapters(tiny_model(dropout=0.3), lora_dropout=0.3)
        cal.apply(model, config)
        torch.manual_seed(5)
        ends.append((*step(model, inputs), torch.rand(1)))
    assert ends[0][2].equal(ends[1][2])
    torch.testing.assert_close(ends[1][0], ends[0][0])
    assert_same_gradients(ends[1][1], ends[0][1], 1e-5)


def test_adapter_dropout_leaves_the_weights_alone_and_is_not_warned_of(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    model = with_adapters(tiny_model(), lora_dropout=0.3)
    trainer = CALTrainer(model=model, args=arguments(tmp_path, max_steps=1), train_dataset=rows(), data_collator=collate, cal=OFF)
    assert not [warning for warning in recwarn if "lora_dropout" in str(warning.message)]
    inner = model.get_base_model().train()
    torch.testing.assert_close(measure(inner, batch(2), OFF).delta, measure(inner, batch(2), OFF).delta, rtol=0, atol=0)
    trainer.train()
    assert trainer.cal.forwards == 1


def test_a_reference_without_adapters_is_refused(tmp_path: Path) -> None:
    model, _ = patched(OFF)
    with pytest.raises(CALError, match="get_peft_model"):
        model(**batch(2))
    with pytest.raises(CALError, match="get_peft_model"):
        CALTrainer(model=tiny_model(), args=arguments(tmp_path), train_dataset=rows(), data_collator=collate, cal=OFF)


def test_all_options_together_run(tmp_path: Path) -> None:
    config = CALConfig(quantile=0.9, warmup=2, every=2, reference="adapters_off", pack=True)
    _, logs, trainer = train(with_cal(config), tmp_path, with_adapters(tiny_model()), max_steps=4, gradient_accumulation_steps=2)
    lines = [line for line in logs if "loss" in line]
    assert all(math.isfinite(line["loss"]) for line in lines)
    # Step 0 has no strength yet, 1 and 3 are between.
    assert ["cal/weight_mean" in line for line in lines] == [False, False, True, False]
    assert lines[-1]["cal/beta"] == trainer.cal.quantile.bound
