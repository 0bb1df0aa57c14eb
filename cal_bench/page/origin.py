"""Where on the Hugging Face hub a benchmark's data set is, as lmms-eval's YAML says; read without importing lmms-eval."""

from dataclasses import dataclass
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

from cal_bench.errors import UserError
from cal_bench.tasks import Benchmark


@dataclass(frozen=True)
class Origin:
    """A data set of the hub, and the name of its configuration where it has several."""

    repository: str
    name: str | None


def origin_of(benchmark: Benchmark) -> Origin:
    """The data set of a benchmark. UserError without lmms-eval, whose files say it."""
    found = find_spec("lmms_eval")
    if found is None or found.origin is None:
        raise UserError("lmms-eval is not installed, whose files say where on the hub a benchmark lies. Type: pip install lmms-eval")
    said = _settings((resources.files("cal_bench.tasks") / f"{benchmark.lmms_task}.yaml").read_text(encoding="utf-8"))
    # Our own YAMLs are included from where lmms-eval is installed.
    said = _followed(Path(found.origin).parent.parent, said)
    return Origin(said["dataset_path"], said.get("dataset_name"))


def _followed(folder: Path, said: dict[str, str]) -> dict[str, str]:
    """The settings with those of the file that they include, which count where there is no own one."""
    if "include" not in said:
        return said
    path = folder / said["include"]
    return {**_followed(path.parent, _settings(path.read_text(encoding="utf-8"))), **said}


def _settings(text: str) -> dict[str, str]:
    """The plain settings at the top level: the files hold tags that name functions, which no YAML reader knows."""
    pairs = (line.split("#")[0].partition(":") for line in text.splitlines() if line[:1].isalpha())
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs if value.strip()}
