"""CAL inside a model's forward: golden models, and what must not change."""

import copy
import inspect
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError
from cal_bench.trainer_plugin.loss import measure
from tests.shared import SHARED, needs_shared
from tests.tiny import IMAGE_ID, SIDE, assert_same_gradients, tiny_model

FOLDER = SHARED / "fixtures" / "cal_model"
GOLDEN = {
    ("published", "mask"): CALConfig.published(),
    ("published", "drop"): CALConfig(pooling="published", normalize="micro"),
    ("paper", "mask"): CALConfig(normalize="sample", contrast="mask"),
    ("paper", "drop"): CALConfig(normalize="sample"),
}


def golden(family: str, name: str) -> tuple[Any, dict[str, torch.Tensor], dict[str, Any]]:
    model = AutoModelForImageTextToText.from_pretrained(FOLDER / family).train()
    expected = json.loads((FOLDER / family / "expected.json").read_text(encoding="utf-8"))["batches"][name]
    return model, load_file(FOLDER / family / f"batch_{name}.safetensors"), expected


@needs_shared
@pytest.mark.parametrize("family", ["llava", "llava_next"])
# Not mixed with drop: a label right behind its image, where the two contrasts differ by definition (see test_golden_deltas).
@pytest.mark.parametrize(("name", "contrast"), [("instruct", "mask"), ("mixed", "mask"), ("instruct", "drop")])
@pytest.mark.parametrize("reading", ["published", "paper"])
def test_golden_loss_and_gradients(family: str, name: str, reading: str, contrast: str) -> None:
    model, batch, expected = golden(family, name)
    cal.apply(model, GOLDEN[reading, contrast])
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected[reading]["loss"], rel=1e-5)
    named = dict(model.named_parameters())
    for parameter, norm in expected[reading]["grad_norms"].items():
        assert named[parameter].grad.norm().item() == pytest.approx(norm, rel=1e-4), parameter


@needs_shared
@pytest.mark.parametrize("family", ["llava", "llava_next"])
@pytest.mark.parametrize("name", ["instruct", "mixed"])
@pytest.mark.parametrize("contrast", ["mask", "drop"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_golden_deltas(family: str, name: str, contrast: str, attention: str) -> None:
    model, batch, expected = golden(family, name)
    model.set_attn_implementation(attention)
    measured = measure(model, batch, GOLDEN["paper", contrast])
    field = "delta" if contrast == "mask" else "delta_image_dropped"
    rows = measured.tokens.rows.tolist()
    assert rows == [token["row"] for token in expected["labelled"]]
    torch.testing.assert_close(measured.delta, torch.tensor([token[field] for token in expected["labelled"]]), rtol=0, atol=1e-4)
    if contrast == "mask":
        weights = torch.tensor([token["weight_paper"] for token in expected["labelled"]])
        torch.testing.assert_close(measured.tokens.weights, weights, rtol=1e-5, atol=1e-4)


@needs_shared
@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_golden_cross_entropy_where_the_weights_are_equal(family: str) -> None:
    model, batch, expected = golden(family, "mixed")
    cal.apply(model, CALConfig(alpha=1, beta=1))
    loss = model(**batch).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected["cross_entropy"]["loss"], rel=1e-5)
    for parameter, norm in expected["cross_entropy"]["grad_norms"].items():
        assert dict(model.named_parameters())[parameter].grad.norm().item() == pytest.approx(norm, rel=1e-4)


def batch(images: int = 1, text_rows: int = 0, length: int = 12, seed: int = 0) -> dict[str, torch.Tensor]:
    """Rows of begin token, text, image, text, answer; then rows of text alone; the last is padded on the right."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 200, (images + text_rows, length), generator=generator)
    ids[:, 0] = 1
    ids[:images, 3:7] = IMAGE_ID
    labels = ids.clone()
    labels[:, :9] = -100
    mask = torch.ones_like(ids)
    mask[-1, -1:] = 0
    ids[-1, -1:] = 3
    labels[-1, -1:] = -100
    found = {"input_ids": ids, "labels": labels, "attention_mask": mask}
    if images:
        found["pixel_values"] = 3 * torch.randn(images, 3, SIDE, SIDE, generator=generator)
    return found


def gradients(model: Any) -> dict[str, torch.Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def stock_step(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    stock = copy.deepcopy(model)
    loss = stock(**inputs).loss
    loss.backward()
    return loss.detach(), gradients(stock)


@pytest.mark.parametrize("contrast", ["drop", "mask"])
@pytest.mark.parametrize("signal", ["logit", "logp"])
@pytest.mark.parametrize("shape", [(2, 0), (1, 2), (0, 2)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_equal_bounds_give_the_stock_step(contrast: str, signal: str, shape: tuple[int, int], dropout: float) -> None:
    model, inputs = tiny_model(dropout=dropout).train(), batch(*shape)
    torch.manual_seed(5)
    loss, expected = stock_step(model, inputs)
    after_stock = torch.rand(1)
    cal.apply(model, CALConfig(alpha=2, beta=2, contrast=contrast, signal=signal))
    torch.manual_seed(5)
    weighted = model(**inputs).loss
    weighted.backward()
    assert torch.rand(1).equal(after_stock), "the image-free pass used up random numbers"
    torch.testing.assert_close(weighted, loss, rtol=1e-6, atol=0)
    assert gradients(model).keys() == expected.keys()
    assert_same_gradients(gradients(model), expected)


def test_text_only_rows_have_weight_one() -> None:
    model = tiny_model().train()
    inputs = batch(4, 2)
    measured = measure(model, inputs, CALConfig(beta=None))
    text = ~measured.tokens.seeing
    assert text.any()
    assert measured.tokens.weights[text].eq(1).all()
    assert measured.delta[text].eq(0).all()
    assert measured.tokens.weights[~text].gt(1).any()


def test_the_blind_pass_does_not_see_the_picture() -> None:
    model, inputs = tiny_model().train(), batch(2)
    other = inputs | {"pixel_values": -inputs["pixel_values"]}
    for contrast in ("drop", "mask"):
        config = CALConfig(contrast=contrast)
        one, two = measure(model, inputs, config), measure(model, other, config)
        blind = [-(measured.delta + measured.nll) for measured in (one, two)]
        assert not torch.allclose(one.delta, two.delta)
        # delta + nll = logsumexp(seeing) - blind logit: take the former away.
        seeing = [model(**{**pixels, "labels": None}).logits[:, :-1][inputs["labels"][:, 1:] != -100] for pixels in (inputs, other)]
        scores = [left + logits.logsumexp(-1).detach() for left, logits in zip(blind, seeing, strict=True)]
        torch.testing.assert_close(*scores, rtol=1e-4, atol=1e-4)


def test_drop_equals_mask_and_left_padding_equals_right_padding() -> None:
    model, inputs = tiny_model().train(), batch(2)
    dropped, masked = (measure(model, inputs, CALConfig(contrast=contrast)).delta for contrast in ("drop", "mask"))
    torch.testing.assert_close(dropped, masked, rtol=1e-4, atol=1e-4)
    assert dropped.abs().max() > 0.1
    positions = torch.arange(12).expand(2, -1)
    last_row = {
        name: torch.stack([row[0], row[1].roll(1)]) for name, row in (inputs | {"position_ids": positions}).items() if row.dim() == 2
    }
    rolled = measure(model, last_row | {"pixel_values": inputs["pixel_values"]}, CALConfig()).delta
    torch.testing.assert_close(rolled, dropped, rtol=1e-4, atol=1e-4)


def test_a_missing_mask_is_a_mask_of_ones() -> None:
    model, inputs = tiny_model().train(), batch(2)
    inputs["attention_mask"].fill_(1)
    without = {name: value for name, value in inputs.items() if name != "attention_mask"}
    torch.testing.assert_close(measure(model, without, CALConfig()).delta, measure(model, inputs, CALConfig()).delta, rtol=1e-4, atol=1e-5)


def test_labels_on_image_placeholders_are_ignored() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model)
    before = model(**inputs).loss
    inputs["labels"] = inputs["labels"].where(inputs["input_ids"] != IMAGE_ID, IMAGE_ID)
    torch.testing.assert_close(model(**inputs).loss, before)


def test_a_label_without_a_predictor_gets_the_lowest_weight() -> None:
    model = tiny_model().train()
    ids = torch.tensor([[IMAGE_ID] * 4 + [20, 21, 22]])
    labels = torch.tensor([[-100] * 4 + [20, 21, 22]])
    pixels = 3 * torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
    measured = measure(model, inputs, CALConfig(alpha=0.5, beta=None, window=1))
    assert measured.tokens.weights[0] == 0.5
    assert measured.delta[0] == 0
    assert measured.delta[1:].ne(0).all()


def test_logp_is_invariant_to_a_common_shift_and_equals_the_full_softmax() -> None:
    model, inputs = tiny_model().train(), batch(2)
    model.lm_head = torch.nn.Linear(32, model.config.text_config.vocab_size)
    measured = measure(model, inputs, CALConfig(signal="logp"), with_logp=True)
    torch.testing.assert_close(measured.delta, measured.logp_delta)
    with torch.no_grad():
        hidden = model.model(**{name: value for name, value in inputs.items() if name != "labels"})[0]
        mask = inputs["attention_mask"] * (inputs["input_ids"] != IMAGE_ID)
        embedded = model.get_input_embeddings()(inputs["input_ids"])
        positions = torch.arange(12).expand(2, -1)
        blind = model.get_decoder()(inputs_embeds=embedded, attention_mask=mask, position_ids=positions, use_cache=False)[0]
        rows = inputs["labels"][:, 1:] != -100
        targets = inputs["labels"][:, 1:][rows][:, None]
        seeing, unseeing = (F.log_softmax(model.lm_head(states[:, :-1][rows]), -1).gather(1, targets)[:, 0] for states in (hidden, blind))
    torch.testing.assert_close(measured.delta, seeing - unseeing, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        model.lm_head.bias += 100
    torch.testing.assert_close(measure(model, inputs, CALConfig(signal="logp")).delta, measured.delta, rtol=1e-3, atol=1e-3)


def test_only_label_rows_are_projected_once_and_images_are_encoded_once() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model)
    seen: dict[str, list[torch.Size]] = {"head": [], "tower": []}
    model.lm_head.register_forward_hook(lambda module, args, output: seen["head"].append(args[0].shape))
    model.model.vision_tower.register_forward_hook(lambda module, args, output: seen["tower"].append(args[0].shape))
    assert model(**inputs).logits is None
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    assert seen == {"head": [torch.Size([labels, model.config.text_config.hidden_size])], "tower": [inputs["pixel_values"].shape]}


def test_evaluation_generation_and_calls_without_labels_are_stock() -> None:
    model, inputs = tiny_model().eval(), batch(2)
    stock = copy.deepcopy(model)
    cal.apply(model)
    prompt = {name: value for name, value in inputs.items() if name != "labels"}
    assert model(**inputs).loss.equal(stock(**inputs).loss)
    assert model(**inputs).logits.equal(stock(**inputs).logits)
    assert model.generate(**prompt, max_new_tokens=3).equal(stock.generate(**prompt, max_new_tokens=3))
    assert model.train()(**prompt).logits.equal(stock.train()(**prompt).logits)


def test_positional_arguments_and_tuples_work_as_in_the_plain_forward() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model)
    named = model(**inputs).loss
    rest = {"attention_mask": inputs["attention_mask"], "labels": inputs["labels"]}
    torch.testing.assert_close(model(inputs["input_ids"], inputs["pixel_values"], **rest).loss, named)
    torch.testing.assert_close(model(**inputs, return_dict=False)[0], named)
    assert inspect.signature(model.forward) == inspect.signature(tiny_model().forward)


def test_a_deep_copy_trains_itself() -> None:
    model, inputs = tiny_model().train(), batch(2)
    handle = cal.apply(model)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert twin(**inputs).loss.item() == pytest.approx(torch.tensor(264.0).log().item(), rel=1e-5)
    assert handle.stats.sums is None
    twin(**inputs).loss.backward()
    assert model.lm_head.weight.grad is None


def test_remove_restores_the_plain_forward() -> None:
    model, inputs = tiny_model().train(), batch(2)
    loss, _ = stock_step(model, inputs)
    handle = cal.apply(model, CALConfig(beta=None))
    assert not torch.allclose(model(**inputs).loss, loss)
    handle.remove()
    assert "forward" not in model.__dict__
    assert model(**inputs).loss.equal(loss)
    cal.apply(model)


def test_statistics_say_what_the_weights_did() -> None:
    model, inputs = tiny_model().train(), batch(2, 1)
    config = CALConfig(alpha=0.5, beta=1)
    handle = cal.apply(model, config)
    handle.measure_logp = True
    model(**inputs)
    measured = measure(model, inputs, config, with_logp=True)
    delta, weights = (values[measured.tokens.seeing] for values in (measured.delta, measured.tokens.weights))
    assert handle.stats.means(handle.stats.take()) == pytest.approx(
        {
            "weight_mean": weights.mean().item(),
            "clamped_low": (delta < 0.5).float().mean().item(),
            "clamped_high": (delta > 1).float().mean().item(),
            "delta_mean": delta.mean().item(),
            "logp_delta_mean": measured.logp_delta[measured.tokens.seeing].mean().item(),
        },
        rel=1e-5,
    )
    assert handle.stats.means(handle.stats.take()) == {}


def test_what_cannot_work_is_refused() -> None:
    model = tiny_model().train()
    with pytest.raises(CALError, match="DataParallel"):
        cal.apply(torch.nn.DataParallel(model))
    with pytest.raises(CALError, match="a Sequential has no config; apply CAL to the transformers model"):
        cal.apply(torch.nn.Sequential(model))
    with pytest.raises(CALError, match="expected a CALConfig"):
        cal.apply(model, {"alpha": 1})  # type: ignore[arg-type]
    text = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    with pytest.raises(CALError, match=r"llama.*llava"):
        cal.apply(LlamaForCausalLM(text))
    handle = cal.apply(model)
    with pytest.raises(CALError, match="already has CAL"):
        cal.apply(model)
    model.forward = lambda: None
    with pytest.raises(CALError, match="patched again"):
        handle.remove()
    other = tiny_model()
    other.forward = lambda: None
    with pytest.raises(CALError, match="already patched"):
        cal.apply(other)


def test_batches_that_cannot_work_are_refused() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model)
    embedded = {"inputs_embeds": torch.zeros(2, 12, 32), "labels": inputs["labels"]}
    with pytest.raises(CALError, match="input_ids"):
        model(**embedded)
    square = inputs | {"attention_mask": torch.ones(2, 1, 12, 12, dtype=torch.bool)}
    with pytest.raises(CALError, match="attention_mask"):
        model(**square)


@pytest.mark.parametrize("normalize", ["micro", "sample"])
def test_a_mean_per_micro_batch_refuses_a_trainer_that_sums_over_more(normalize: str) -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model, CALConfig(normalize=normalize))
    labels = int((inputs["labels"][:, 1:] != -100).sum())
    alone = model(**inputs).loss
    assert model(**inputs, num_items_in_batch=labels).loss.equal(alone)
    with pytest.raises(CALError, match="CALTrainer"):
        model(**inputs, num_items_in_batch=2 * labels)


def test_nothing_labelled_gives_zero() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model)
    loss = model(**inputs | {"labels": torch.full_like(inputs["labels"], -100)}).loss
    loss.backward()
    assert loss.item() == 0
