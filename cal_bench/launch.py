"""Training in several processes: the commands that start them, ours by name or the user's own."""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from cal_bench.errors import UserError, suggest

STOPPED = 130


def launchers() -> dict[str, Path]:
    """accelerate's configs that come with the package, by name."""
    folder = Path(str(resources.files("cal_bench.recipes"))) / "accelerate"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def launcher_command(given: str, gpus: int | None) -> tuple[str, ...]:
    """What stands in front of `-m cal_bench`: for a name our config of accelerate on so many GPUs, else the words as they are typed."""
    known = launchers()
    if given in known:
        if given.startswith("zero") and find_spec("deepspeed") is None:
            raise UserError(f"--launcher {given} needs DeepSpeed. Type: pip install deepspeed, or take fsdp2, which shares out as much.")
        where = ["--config_file", str(known[given]), "--num_processes", str(gpus or _gpus_here(given))]
        return (sys.executable, "-m", "accelerate.commands.launch", *where)
    words = shlex.split(given)
    if len(words) < 2:
        raise UserError(f"There is no launcher '{given}'.{suggest(given, known)} Give {', '.join(known)}, or a whole command in quotes.")
    # Beside this Python too: torchrun and accelerate are there where nobody activated the environment.
    command = shutil.which(words[0]) or shutil.which(words[0], path=str(Path(sys.executable).parent))
    if command is None:
        raise UserError(f"--launcher: there is no command '{words[0]}' here. Give {', '.join(known)}, or a whole command in quotes.")
    return (command, *words[1:])


def _gpus_here(name: str) -> int:
    import torch

    found: int = torch.cuda.device_count()
    if found == 0:
        raise UserError(f"--launcher {name} is for GPUs, and there is none here. Leave it out, or give the number with --gpus.")
    return found


def launch(launcher: Sequence[str], arguments: Sequence[str]) -> None:
    """Run a command of ours in several processes, to its end; what stops this process stops them."""
    # Standard output carries the answer of this command alone: theirs goes where progress goes.
    process = subprocess.Popen([*launcher, "-m", "cal_bench", *arguments], stdout=sys.stderr.fileno())
    try:
        code = process.wait()
    except KeyboardInterrupt:
        process.terminate()
        process.wait()
        raise
    if code in (STOPPED, -15):
        raise KeyboardInterrupt
    if code != 0:
        raise UserError(
            f"The launched training ended with exit code {code}; what it said stands above. The same command goes on from here."
        )
