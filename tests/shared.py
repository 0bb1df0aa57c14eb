"""Where the golden fixtures and the real pictures lie on the project's own machines; users don't have them."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "fixtures").is_dir(), reason="golden fixtures (../shared) are not on this machine")
