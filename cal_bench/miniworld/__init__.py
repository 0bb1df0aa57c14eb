"""The miniature world: pictures whose truth is known, texts about them, benchmark files, and a tiny model base."""

from pathlib import Path

from .world import WorldSizes, draw_world

__all__ = ["WorldSizes", "assemble", "draw_world"]


def assemble(folder: Path) -> None:
    """Write a miniature LLaVA-1.5 checkpoint; see `base.assemble`. Imports torch when called."""
    from .base import assemble as assemble_base

    assemble_base(folder)
