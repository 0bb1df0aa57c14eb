"""cal_bench: train vision-language models with CAL and measure, benchmark by benchmark, what that changed."""

from pathlib import Path

__version__ = "0.1.0"

# In a plain clone `tasks`, `trainer_plugin` and `results` lie beside this folder, not in it. The guard keeps an installed
# wheel, which has them inside, from picking up whatever folders happen to lie in site-packages.
_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "pyproject.toml").is_file() and (_checkout / "trainer_plugin").is_dir():
    __path__.append(str(_checkout))
