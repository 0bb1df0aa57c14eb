"""The files of training data as they lie there: what they are known by, and how many records they hold."""

import hashlib
import json
from pathlib import Path

from cal_bench.errors import UserError, suggest
from cal_bench.tasks.digests import add_file
from cal_bench.trainer_plugin.messages import count_rows, dataset_files, is_dataset
from cal_bench.trainer_plugin.records import image_roots


def data_fingerprint(files: tuple[str, ...], images: str | tuple[str, ...]) -> str:
    """sha256 over the data files, and over name and size of every image that they name and do not hold."""
    digest = hashlib.sha256()
    named: dict[Path, set[str]] = {}
    for file, root in zip(map(Path, files), image_roots(files, images), strict=True):
        if is_dataset(file):
            for part in dataset_files(file):
                add_file(digest, part)
            continue
        content = _read_data(file)
        digest.update(content)
        for row in json.loads(content):
            found = row.get("image") or ()
            named.setdefault(root, set()).update({found} if isinstance(found, str) else found)
    for root, names in named.items():
        for name in sorted(names):
            path = root / name
            digest.update(f"{name} {path.stat().st_size if path.is_file() else 'missing'}\n".encode())
    return digest.hexdigest()


def count_records(file: Path) -> int | None:
    """How many records a data file holds; None where there is no file."""
    if not file.exists():
        return None
    if is_dataset(file):
        return count_rows(file)
    return len(json.loads(_read_data(file)))


def _read_data(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        if not all(isinstance(row, dict) for row in json.loads(content)):
            raise TypeError
    except FileNotFoundError as error:
        beside = [path.name for path in file.parent.glob("*.json")]
        raise UserError(f"There is no data file {file}.{suggest(file.name, beside)}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{file} is not LLaVA data: expected a JSON list of records with id, image and conversations.") from error
    return content
