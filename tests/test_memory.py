"""The parts of the memory estimate, held against what a tiny model really takes."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaModel

from cal_bench.memory import KINDS, Sizes, activations, layer_activations, per_gpu, states
from cal_bench.parts import prepare_parts
from tests.test_cal_model import batch
from tests.tiny import tiny_model


def sizes(**changes: Any) -> Sizes:
    given = {"parameters": 1000, "trained": 400, "largest": 50, "layers": 2, "hidden": 256, "intermediate": 688, "queries": 256, "keys": 64}
    return Sizes(**given | {"vocabulary": 500, "tokens": 10, "checkpointing": True} | changes)


def test_states_of_one_process_are_what_adamw_holds() -> None:
    model = tiny_model().train()
    counts = prepare_parts(model, ("model.language_model", "lm_head"))
    trained, frozen = (sum(counts[kind].values()) for kind in ("trainable", "frozen"))
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    model(**batch()).loss.backward()
    optimizer.step()
    found = states(sizes(parameters=trained + frozen, trained=trained), "ddp", 1)
    assert found.weights == sum(parameter.nbytes for parameter in model.parameters())
    # And once more in DDP's buckets.
    assert found.gradients == 2 * sum(parameter.grad.nbytes for parameter in model.parameters() if parameter.grad is not None)
    moments = [value for state in optimizer.state.values() for name, value in state.items() if name != "step"]
    assert found.optimizer == sum(value.nbytes for value in moments)


def test_sharing_out_divides_what_is_shared_out() -> None:
    one, four = (states(sizes(), "fsdp2", gpus) for gpus in (1, 4))
    assert (one.weights, one.gradients, one.optimizer) == (4 * four.weights, 4 * four.gradients, 4 * four.optimizer)
    assert one.gathered == four.gathered
    # DeepSpeed's own estimators, for a model that is trained whole: 4 P + 16 P / n, and 18 P / n + 4 x the largest layer.
    whole = sizes(trained=1000)
    assert states(whole, "zero2", 4).total == 4 * 1000 + 16 * 1000 / 4
    assert states(whole, "zero3", 4).total == 18 * 1000 / 4 + 4 * 50


def saved_bytes(keys: int, tokens: int, layers: int, checkpointing: bool, dtype: torch.dtype) -> int:
    """What autograd keeps of a Llama's layers for the backward pass, without the weights."""
    config = LlamaConfig(
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=keys // 64,
        vocab_size=8,
    )
    model = LlamaModel(config).to(dtype).train()
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    own = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    inputs = torch.randn(1, tokens, 256, requires_grad=True, dtype=dtype)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32),
    ):
        model(inputs_embeds=inputs, attention_mask=torch.ones(1, tokens, dtype=torch.long), use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in own)


def per_token_and_layer(keys: int, checkpointing: bool, dtype: torch.dtype) -> float:
    """Differences, so that what does not grow with layers and tokens falls out."""
    few, many = 32, 96
    found = {(tokens, layers): saved_bytes(keys, tokens, layers, checkpointing, dtype) for tokens in (few, many) for layers in (1, 3)}
    grown = [found[many, layers] - found[few, layers] for layers in (1, 3)]
    return (grown[1] - grown[0]) / 2 / (many - few)


@pytest.mark.parametrize(("kind", "dtype"), [("ddp", torch.float32), ("zero3", torch.bfloat16)])
@pytest.mark.parametrize("keys", [64, 256])
def test_a_layer_keeps_what_the_formula_says(kind: Any, dtype: torch.dtype, keys: int) -> None:
    assert layer_activations(sizes(keys=keys), kind) == pytest.approx(per_token_and_layer(keys, False, dtype), rel=0.02)


def test_a_checkpointed_layer_keeps_its_input() -> None:
    two, three = (activations(sizes(layers=layers), "ddp") for layers in (2, 3))
    assert (three - two) / 10 == per_token_and_layer(64, True, torch.float32)


def test_estimates_order_as_the_launchers_share_out() -> None:
    big = sizes(parameters=7 * 10**9, trained=7 * 10**9, largest=2 * 10**8)
    ddp, fsdp2, zero2, zero3 = (per_gpu(big, kind, 8) for kind in KINDS)
    assert ddp > zero2 > max(fsdp2, zero3)
