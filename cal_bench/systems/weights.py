"""Weights on the disk: found without reading them, read one by one, written shard by shard."""

import json
import math
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from cal_bench.checkpoints import INDEX
from cal_bench.errors import UserError

from .names import Rename

SHARD = 2 * 1024**3
# The first that a folder has; other pickles beside them, such as training_args.bin, are not touched.
_PICKLED = ("pytorch_model*.bin", "open_clip_pytorch_model.bin", "mm_projector.bin")


class Files:
    """Holds the weight file open that was read last; its neighbours mostly follow."""

    def __init__(self) -> None:
        self._file: Path | None = None
        self._tensor: Callable[[str], Tensor]

    def tensor(self, file: Path, name: str) -> Tensor:
        """One tensor of a file, mapped where the form allows."""
        if file != self._file:
            self._tensor = _opened(file).__getitem__ if file.suffix == ".bin" else safe_open(file, framework="pt").get_tensor
            self._file = file
        return self._tensor(name)


@dataclass(frozen=True)
class Weight:
    """A tensor that is read when it is needed; `size` is in bytes."""

    shape: tuple[int, ...]
    size: int
    read: Callable[[Files], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> "Weight":
        """One that is in memory already."""
        return cls(tuple(tensor.shape), tensor.nbytes, lambda files: tensor)

    @classmethod
    def at(cls, file: Path, name: str, shape: tuple[int, ...], size: int) -> "Weight":
        """One that lies in a file."""
        return cls(shape, size, lambda files: files.tensor(file, name))

    def widened(self, rows: int) -> "Weight":
        """With more rows, each the mean of the old ones."""
        size = self.size // self.shape[0] * rows
        return Weight((rows, *self.shape[1:]), size, lambda files: _with_mean_rows(self.read(files), rows))


def _with_mean_rows(old: Tensor, rows: int) -> Tensor:
    mean = old.mean(dim=0, keepdim=True, dtype=torch.float32).to(old.dtype)
    return torch.cat([old, mean.expand(rows - len(old), -1)])


def stored(folder: Path, rename: Rename) -> dict[str, Weight]:
    """All weights of a folder by their new names, without those that are renamed to None."""
    found: dict[str, Weight] = {}
    for file in weight_files(folder):
        weights = _pickled(file) if file.suffix == ".bin" else _safetensors(file)
        found |= {new: weight for name, weight in weights.items() if (new := rename(name)) is not None}
    return found


def weight_files(folder: Path) -> list[Path]:
    """Its safetensors files, or where there are none its pickled ones."""
    if not folder.is_dir():
        raise UserError(f"There is no folder '{folder}'. Give the folder of a checkpoint, with its weights and config.json.")
    for pattern in ("*.safetensors", *_PICKLED):
        if files := sorted(folder.glob(pattern)):
            return files
    raise UserError(f"{folder} holds no weights: expected *.safetensors or {', '.join(_PICKLED)}. Fetch it again, with its weights.")


def _safetensors(file: Path) -> dict[str, Weight]:
    try:
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        entries = {name: (tuple(entry["shape"]), entry["data_offsets"]) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, MemoryError, OverflowError) as error:
        raise _damaged(file) from error
    if file.stat().st_size < max((end for _, (_, end) in entries.values()), default=0):
        raise _damaged(file)
    return {name: Weight.at(file, name, shape, end - start) for name, (shape, (start, end)) in entries.items()}


def _pickled(file: Path) -> dict[str, Weight]:
    return {name: Weight.at(file, name, tuple(tensor.shape), tensor.nbytes) for name, tensor in _opened(file).items()}


def _opened(file: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file, mapped and not read; nothing but tensors is unpickled, so that no code of the file runs."""
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise UserError(f"{file} holds more than tensors and is not loaded, because it could run code. Get it as safetensors.") from error
    except (RuntimeError, EOFError, OSError) as error:
        raise _damaged(file) from error
    if not isinstance(tensors, dict) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise UserError(f"{file} is not a checkpoint: expected names with their tensors.")
    return tensors


def _damaged(file: Path) -> UserError:
    return UserError(f"{file} is damaged, half-written or of a form that is not read. Copy or fetch it again, best as safetensors.")


def check(weights: Mapping[str, Weight], expected: Mapping[str, tuple[int, ...]], source: Path) -> None:
    """Every weight of the model is there, in its shape, and none is left over; all that is wrong is told."""
    wrong = [f"lacks {name}" for name in sorted(expected.keys() - weights.keys())]
    wrong += [f"has {name}, which the model does not know" for name in sorted(weights.keys() - expected.keys())]
    for name in sorted(expected.keys() & weights.keys()):
        if weights[name].shape != expected[name]:
            wrong.append(f"has {name} in shape {list(weights[name].shape)}, but its config makes it {list(expected[name])}")
    if wrong:
        shown = "\n".join(f"  {line}" for line in wrong[:8])
        more = f"\n  and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise UserError(
            f"The weights of {source} are not those of the model that its config names; it\n{shown}{more}\nNothing was written."
        )


def write(weights: Mapping[str, Weight], folder: Path, limit: int = SHARD) -> None:
    """model.safetensors, or shards of at most `limit` bytes (or one tensor) with their index."""
    shards = _shards(weights, limit)
    files = [f"model-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = ["model.safetensors"]
    for file, names in zip(files, shards, strict=True):
        opened = Files()
        save_file({name: weights[name].read(opened).contiguous() for name in names}, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        index: dict[str, Any] = {"metadata": {"total_size": sum(weight.size for weight in weights.values())}}
        index["weight_map"] = {name: file for file, names in zip(files, shards, strict=True) for name in names}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def _shards(weights: Mapping[str, Weight], limit: int) -> list[list[str]]:
    shards: list[list[str]] = []
    room = -math.inf
    for name, weight in weights.items():
        if weight.size > room:
            shards.append([])
            room = limit
        shards[-1].append(name)
        room -= weight.size
    return shards
