"""The page: one HTML file that shows a comparison, the samples that changed, and the training of both arms. Needs no torch."""

from .build import page_html
from .sides import Pair, read_pair

__all__ = ["Pair", "page_html", "read_pair"]
