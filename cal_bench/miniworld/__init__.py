"""The miniature world: pictures whose truth is known, texts about them, benchmark files, and a tiny model base."""

from pathlib import Path

from .world import WorldSizes, draw_world

__all__ = ["MINIATURES", "WorldSizes", "assemble", "draw_world"]

# What a config calls the tiny bases, and the systems that they are.
MINIATURES = {
    "miniworld": "llava-1.5",
    "miniworld/llava-next": "llava-next",
    "miniworld/mgm": "mgm",
    "miniworld/mgm-hd": "mgm-hd",
}


def assemble(folder: Path, system: str = "llava-1.5") -> None:
    """Write a miniature checkpoint of one of the four systems; see `base.assemble`. Imports torch when called."""
    from .base import assemble as assemble_base

    assemble_base(folder, system)
