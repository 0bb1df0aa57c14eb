"""Folders of weights: finding one, seeing that it is whole, and the fingerprint that a run belongs to."""

import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from cal_bench.errors import UserError, suggest
from cal_bench.tasks.digests import hash_files

INDEX = "model.safetensors.index.json"
# Files of a checkpoint on the hub that are read.
READ = ("*.json", "*.jinja", "*.safetensors", "*.txt", "*.model")
_SHOWN = ("chat_template", "preprocessor", "processor", "tokenizer", "special_tokens", "vocab", "merges")
_SETTINGS = ("config.json", "generation_config.json")
_PASSING = ("transformers_version", "_name_or_path", "dtype", "torch_dtype")
_LONGEST_HEADER = 100_000_000  # the limit of the safetensors format itself


def weights_fingerprint(folder: str | Path) -> str:
    """sha256 over the names and contents of the folder's safetensors files; a folder that is not whole is refused."""
    digest = hashlib.sha256()
    for file in weight_files(Path(folder)):
        digest.update(f"{file.name} {hash_files([file])}\n".encode())
    return digest.hexdigest()


def processor_fingerprint(folder: str | Path) -> str:
    """sha256 over the files that decide what the model is shown, and what it makes of its weights: processor, tokenizer, chat template,
    and the settings in config.json and generation_config.json (which token ends an answer)."""
    digest = hashlib.sha256()
    for file in sorted(Path(folder).iterdir()):
        if file.name in _SETTINGS:
            digest.update(f"{file.name} {_settings(file)}\n".encode())
        elif file.name.startswith(_SHOWN) and file.is_file():
            digest.update(f"{file.name} {hash_files([file])}\n".encode())
    return digest.hexdigest()


def _settings(file: Path) -> str:
    try:
        return json.dumps(_lasting(json.loads(file.read_text(encoding="utf-8"))), sort_keys=True)
    except ValueError as error:
        raise UserError(f"{file} cannot be read: {error}. Copy it again.") from error


def _lasting(settings: Any) -> Any:
    """Settings without those that only say by what, from where and how precisely they were saved."""
    if not isinstance(settings, dict):
        return settings
    return {name: _lasting(value) for name, value in settings.items() if name not in _PASSING}


def weight_files(folder: Path) -> list[Path]:
    """The folder's safetensors files by name, each seen to be whole."""
    check_folder(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"{folder} holds no weights: expected *.safetensors files.{_pickled(folder)}")
    _check_shards(folder)
    for file in files:
        _check_whole(file)
    return files


def check_folder(folder: Path) -> None:
    """Refuse a folder that is missing or holds no checkpoint."""
    if not folder.is_dir():
        beside = [path.name for path in folder.parent.iterdir() if path.is_dir()] if folder.parent.is_dir() else []
        raise UserError(
            f"There is no model folder '{folder}'.{suggest(folder.name, beside)} Give the folder of a checkpoint saved by transformers."
        )
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is not a checkpoint: it has no config.json. Give the folder of a checkpoint saved by transformers.")


def _pickled(folder: Path) -> str:
    if not any(folder.glob("*.bin")):
        return " The folder may be half-written: copy or train it again."
    return " It has pickled weights (*.bin), which can run code and are not read: load them with transformers and save_pretrained() once."


def _check_shards(folder: Path) -> None:
    index = folder / INDEX
    if not index.is_file():
        return
    try:
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError) as error:
        raise _half_written(index, "its list of weights cannot be read") from error
    for missing in sorted(name for name in named if not (folder / name).is_file()):
        raise _half_written(folder, f"{INDEX} names {missing}, which is not there")


def _check_whole(file: Path) -> None:
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
            raise _half_written(file, f"it has {size} bytes and no readable header")
        header = stream.read(length)
    try:
        ends = [entry["data_offsets"][1] for name, entry in json.loads(header).items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _half_written(file, "its header cannot be read") from error
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise _half_written(file, f"it has {size:,} bytes, its header promises {expected:,}")


def _half_written(path: Path, what: str) -> UserError:
    return UserError(f"The checkpoint {path} is damaged or half-written: {what}. Copy or train it again.")
