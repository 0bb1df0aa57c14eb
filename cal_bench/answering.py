"""Who answers: the checkpoint or the backend that `eval` was given."""

from argparse import Namespace
from pathlib import Path

from cal_bench.backends import LmmsModel, read_backend
from cal_bench.errors import UserError
from cal_bench.models import HFModel, checkpoint_folder
from cal_bench.tasks.hub import MODEL, list_files


def model_of(arguments: Namespace) -> HFModel | LmmsModel:
    """The model, its weights unread; UserError unless it is said in one way. A dry run fetches nothing."""
    if arguments.backend is None and arguments.model_args is not None:
        raise UserError("--model-args are those of a backend: give --backend lmms:NAME too, or only --model PATH.")
    if arguments.backend is None and arguments.model is None:
        raise UserError("the following arguments are required: --model, or --backend lmms:NAME with --model-args")
    if arguments.backend is not None and arguments.model is not None:
        raise UserError("A backend is told its model by --model-args (such as model=PATH, see lmms-eval). Leave --model out.")
    if arguments.backend is not None:
        return LmmsModel(read_backend(arguments.backend, arguments.model_args or ""), arguments.batch_size)
    if arguments.dry_run and not Path(arguments.model).is_dir():
        _check_here(arguments.model)
    return HFModel(checkpoint_folder(arguments.model), batch_size=arguments.batch_size, processing=arguments.processing)


def run_name(arguments: Namespace) -> str:
    """The run folder where none is named."""
    if arguments.backend is not None:
        return read_backend(arguments.backend, arguments.model_args or "").run_name
    folder = Path(arguments.model)
    return folder.resolve().name if folder.is_dir() else folder.name


def _check_here(name: str) -> None:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):  # a path: told of as every other missing folder
        return
    try:
        list_files(name, MODEL, ask=False)
    except OSError as error:
        raise UserError(f"The model {name} is not here, and a dry run fetches nothing. Type: cal-bench fetch --models {name}") from error
