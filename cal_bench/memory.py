"""What a training step takes of each GPU's memory, and a training of the disk, estimated in bytes from the sizes of model and batch.

The formulas are explained in docs/clusters.md. Counts of tests on tiny models hold their parts: states exactly, activations to 2 %.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["ddp", "fsdp2", "zero2", "zero3"]
KINDS: tuple[Kind, ...] = ("ddp", "fsdp2", "zero2", "zero3")
SINGLE, HALF = 4, 2  # bytes of a number in single precision, and in bfloat16
# CUDA, the kernels and NCCL's buffers.
RUNTIME = 2 * 1024**3
# Checkpoints on the disk at once: two that are kept and one that is being written.
CHECKPOINTS = 3


@dataclass(frozen=True)
class Sizes:
    """A model that is trained in part, and a micro-batch of it.

    `parameters`, `trained` and `largest` (the largest piece that is put together at once) are counts; the widths are those of a
    layer of the language model: hidden, intermediate, all query heads, all key heads. `tokens` are those of the micro-batch with its
    padding, `towers` the bytes that the vision towers hold.
    """

    parameters: int
    trained: int
    largest: int
    layers: int
    hidden: int
    intermediate: int
    queries: int
    keys: int
    vocabulary: int
    tokens: int
    checkpointing: bool
    towers: int = 0


@dataclass(frozen=True)
class States:
    """Bytes per GPU for what stays from step to step, and `gathered` for what is put together in passing."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.gradients + self.optimizer + self.gathered


def states(sizes: Sizes, kind: Kind, gpus: int) -> States:
    """Weights, gradients and AdamW's two moments of each GPU.

    DDP and FSDP2: weights in single precision. DeepSpeed: bfloat16, with single-precision copies of what is trained, as its own
    estimators count (estimate_zero2_model_states_mem_needs, estimate_zero3_model_states_mem_needs).
    """
    all_weights, trained, largest = sizes.parameters, sizes.trained, sizes.largest
    moments = 2 * SINGLE * trained
    if kind == "ddp":
        # Gradients lie in the buckets of the reduction too; autocast keeps what it has cast of the trained weights.
        return States(SINGLE * all_weights, 2 * SINGLE * trained, moments, HALF * trained)
    if kind == "fsdp2":
        # One piece at work and the next on its way, in bfloat16; the gradient of one piece before it is reduced.
        gathered = (2 * HALF + SINGLE) * largest
        return States(SINGLE * all_weights / gpus, SINGLE * trained / gpus, moments / gpus, gathered)
    # Single-precision weights and moments of what is trained, and its gradients once they are reduced.
    optimizer, reduced = (SINGLE * trained + moments) / gpus, SINGLE * trained / gpus
    if kind == "zero2":
        return States(HALF * all_weights, HALF * trained + reduced, optimizer, 0)
    return States(HALF * all_weights / gpus, reduced, optimizer, 2 * HALF * largest)


def residual(kind: Kind) -> int:
    """Bytes of a number between two layers: autocast leaves sums in single precision, sharded models compute in bfloat16."""
    return SINGLE if kind == "ddp" else HALF


def layer_activations(sizes: Sizes, kind: Kind) -> int:
    """What the backward pass needs of one layer of a Llama or Gemma with SDPA attention, per token (see tests/test_memory.py)."""
    norms = 24 if residual(kind) == SINGLE else 14
    return norms * sizes.hidden + 6 * sizes.queries + 4 * sizes.keys + 8 * sizes.intermediate


def activations(sizes: Sizes, kind: Kind) -> int:
    """Layers, towers and the head.

    With checkpointing a layer keeps its input, and one layer at a time all that it needs. The stock trainer's logits of all tokens
    are there once in bfloat16 and twice in single precision; with CAL only those of label tokens are, a few rows at a time.
    """
    kept = sizes.layers * residual(kind) * sizes.hidden + layer_activations(sizes, kind)
    if not sizes.checkpointing:
        kept = sizes.layers * layer_activations(sizes, kind)
    head = (HALF + 2 * SINGLE) * sizes.vocabulary
    return sizes.tokens * (kept + head) + sizes.towers


def per_gpu(sizes: Sizes, kind: Kind, gpus: int) -> float:
    """All of it, on each of so many GPUs."""
    return states(sizes, kind, gpus).total + activations(sizes, kind) + RUNTIME


def result_bytes(parameters: int) -> int:
    """The weights that a stage leaves, in single precision."""
    return SINGLE * parameters


def checkpoint_bytes(parameters: int, trained: int) -> int:
    """What lies on the disk while a stage trains that saves checkpoints: weights and moments, so many times."""
    return CHECKPOINTS * (SINGLE * parameters + 2 * SINGLE * trained)
