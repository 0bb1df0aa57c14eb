"""Files of the Hugging Face hub: which ones make up a split, and where they lie once they are here.

Only the files of the split are fetched: DocVQA's repository, for one, holds 12 GB. What is here is used without asking the hub, so
that the questions of a study stay the same until somebody fetches anew.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

DATASET, MODEL = "dataset", "model"
_CARD = "README.md"


@dataclass(frozen=True)
class Listing:
    """Files of a repository by their size in bytes, and the folder that they lie in, or will once they are fetched."""

    repository: str
    kind: str  # DATASET or MODEL
    folder: Path
    sizes: Mapping[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """The files that are not here."""
        return tuple(name for name in self.sizes if not (self.folder / name).is_file())

    @property
    def paths(self) -> list[Path]:
        """Where the files lie, by name."""
        return [self.folder / name for name in sorted(self.sizes)]


def list_files(repository: str, kind: str, ask: bool = True) -> Listing:
    """All files of a repository; OSError if it cannot be reached, or, without `ask`, if it was never listed on this machine."""
    from huggingface_hub import get_cached_repo_tree, snapshot_download
    from huggingface_hub.errors import CachedRepoTreeNotFoundError

    with _bars(shown=False):
        folder = snapshot_download(repository, repo_type=kind, allow_patterns=_CARD, local_files_only=not ask)
    try:
        entries = get_cached_repo_tree(repository, repo_type=kind)
    except CachedRepoTreeNotFoundError as error:  # fetched by a version of huggingface_hub that kept no list
        raise FileNotFoundError(str(error)) from error
    return Listing(repository, kind, Path(folder), {entry.path: entry.size for entry in entries})


def list_split(repository: str, name: str | None, split: str, ask: bool = True) -> Listing:
    """The parquet files of a split; OSError as in `list_files`, and FileNotFoundError if the repository has none."""
    from huggingface_hub.repocard import metadata_load

    every = list_files(repository, DATASET, ask)
    card = every.folder / _CARD
    said = (metadata_load(card) or {}) if card.is_file() else {}
    names = split_files(list(every.sizes), said.get("configs") or [], name, split)
    if not names:
        raise FileNotFoundError(f"the data set has no parquet files for {split}")
    return Listing(repository, DATASET, every.folder, {file: every.sizes[file] for file in names})


def fetch(listing: Listing) -> Listing:
    """Download what is missing; OSError if that fails. What was downloaded before is kept."""
    from huggingface_hub import snapshot_download

    with _bars(shown=sys.stderr.isatty()):
        snapshot_download(listing.repository, repo_type=listing.kind, allow_patterns=list(listing.sizes))
    return listing


def split_of(repository: str, name: str | None, split: str) -> list[Path]:
    """The files of a split, fetched if one of them is not here; OSError if that fails."""
    try:
        here = list_split(repository, name, split, ask=False)
    except OSError:
        return fetch(list_split(repository, name, split)).paths
    return (fetch(list_split(repository, name, split)) if here.missing else here).paths


def split_files(names: Sequence[str], configs: Sequence[Mapping[str, Any]], name: str | None, split: str) -> list[str]:
    """Those of a data set's files that hold a split: as its card says, or else by their names, as data sets are uploaded."""
    parquet = sorted(file for file in names if file.endswith(".parquet"))
    said = _said(configs, name, split)
    if said is not None:
        return [file for file in parquet if any(fnmatch(file, pattern) for pattern in said)]
    of_split = [file for file in parquet if file.rpartition("/")[2].startswith((f"{split}-", f"{split}."))]
    return of_split if name is None else [file for file in of_split if name in file.split("/")[:-1]]


def _said(configs: Sequence[Mapping[str, Any]], name: str | None, split: str) -> list[str] | None:
    """The patterns of a split on a card; None where the card says nothing of it."""
    named = {config.get("config_name"): config.get("data_files") for config in configs}
    files = named.get(name or "default", next(iter(named.values()), None) if name is None else None)
    for entry in files if isinstance(files, list) else ():
        if isinstance(entry, dict) and entry.get("split") == split:
            path = entry["path"]
            return [path] if isinstance(path, str) else list(path)
    return None


@contextlib.contextmanager
def _bars(shown: bool) -> Iterator[None]:
    """Keeps the progress bars of huggingface_hub off what is no terminal, and off small files."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if shown or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
