"""Fingerprints of files, read piece by piece: weights and data may be larger than the memory."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PIECE = 1 << 20


def add_file(digest: Any, file: Path) -> None:
    """Put the content of a file into one of hashlib's digests."""
    with file.open("rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)


def hash_files(files: Sequence[Path]) -> str:
    """sha256 over the contents of the files, in their order."""
    digest = hashlib.sha256()
    for file in files:
        add_file(digest, file)
    return digest.hexdigest()
