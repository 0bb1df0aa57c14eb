"""Launchers: accelerate reads the shipped configs, and a study gives the same tables on two processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.utils import DistributedType

from cal_bench import several as several_module
from cal_bench.cli import main
from cal_bench.config import StudyConfig
from cal_bench.errors import UserError
from cal_bench.launch import launch, launcher_command, launchers
from cal_bench.several import load_studies, run_studies
from cal_bench.study import Outcome
from tests import made_up
from tests.test_study import PATIENCE, STAGE, lay_out
from tests.tiny import save_tiny

TYPES = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}
# What accelerate starts where there are GPUs; on a CPU alone it asks for MPI.
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.mark.parametrize("name", list(TYPES))
def test_accelerate_reads_every_config(name: str) -> None:
    config = load_config_from_file(str(launchers()[name]))
    assert isinstance(config, ClusterConfig)
    assert (config.distributed_type, config.mixed_precision) == (TYPES[name], "bf16")
    assert config.fsdp_config.get("fsdp_version") == (2 if name == "fsdp2" else None)
    assert config.deepspeed_config.get("zero_stage") == {"zero2": 2, "zero3": 3}.get(name)


def test_every_config_is_known_by_its_name() -> None:
    assert list(launchers()) == list(TYPES)


def test_a_name_stands_for_its_config_and_a_command_for_itself() -> None:
    command = launcher_command("fsdp2", 4)
    assert command[1:3] == ("-m", "accelerate.commands.launch")
    assert command[3:] == ("--config_file", str(launchers()["fsdp2"]), "--num_processes", "4")


def test_a_command_is_found_where_no_environment_is_activated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    beside = str(Path(sys.executable).with_name("torchrun"))
    assert launcher_command("torchrun --nproc-per-node 2", None) == (beside, "--nproc-per-node", "2")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("fsdp", "Did you mean 'fsdp2'"),
        ("ddp", "there is none here"),
        ("zero3", "needs DeepSpeed. Type: pip"),
        ("nowhere run", "no command 'nowhere' here"),
    ],
)
def test_wrong_launchers_are_refused(given: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("cal_bench.launch.find_spec", lambda name: None)
    with pytest.raises(UserError, match=told):
        launcher_command(given, None)


def test_how_a_launched_command_ended_is_passed_on(tmp_path: Path) -> None:
    said = tmp_path / "launcher.py"
    said.write_text("import json, sys; print(json.dumps(sys.argv)); sys.exit(int(sys.argv[-1]))")
    launch([sys.executable, str(said)], ["train", "0"])
    with pytest.raises(UserError, match="exit code 2"):
        launch([sys.executable, str(said)], ["train", "2"])
    with pytest.raises(KeyboardInterrupt):
        launch([sys.executable, str(said)], ["train", "130"])


@pytest.mark.parametrize("seeds", [(), (1, 2)])
def test_every_study_of_a_list_gets_the_launcher(seeds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nbase: study.yaml\n")
    (tmp_path / "both.yaml").write_text("name: both\nstudies: [one.yaml, two.yaml]\n")
    ran: list[tuple[str, int, tuple[str, ...]]] = []

    def run_study(study: StudyConfig, out: Path, command: str, launcher: tuple[str, ...]) -> Outcome:
        ran.append((study.name, study.seed, launcher))
        arm = made_up.arm("baseline", made_up.summaries({"pope": "%"}, 0.5, study.seed), study.seed)
        made_up.write_study(out, {"baseline": arm})
        return Outcome("", complete=True)

    monkeypatch.setattr(several_module, "run_study", run_study)
    given = ["--seeds", *map(str, seeds)] if seeds else []
    command = ["study", str(tmp_path / "both.yaml"), "--out", str(tmp_path / "out"), "--launcher", "fsdp2", "--gpus", "2", *given]
    assert main(command) == 0
    assert ran == [(name, seed, launcher_command("fsdp2", 2)) for seed in seeds or (0,) for name in ("one", "two")]


def test_only_the_main_process_draws_and_writes_for_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(several_module, "run_study", lambda study, out, command, launcher: Outcome("", complete=study.name != "mini-mgm"))
    monkeypatch.setenv("RANK", "1")
    assert run_studies(load_studies("mini-table1"), tmp_path, "") == Outcome("", complete=False)
    assert not list(tmp_path.iterdir())


def run(command: list[str], folder: Path) -> tuple[str, str]:
    """What a command printed, and what it told."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.slow
def test_a_study_on_two_processes_trains_as_on_one_and_speaks_once(tmp_path: Path) -> None:
    # One process accumulates what two have side by side. Without dropout, of which each process draws its own.
    stage = {**STAGE, "template": "v1", "per_device_batch_size": 2, "max_steps": 2, "save_steps": None, "swap": 0, "max_length": 210}
    config = lay_out(tmp_path, stages={"it": stage}, arms={"baseline": {}, "cal": {"it": {"alpha": 0, "beta": None}}})
    save_tiny(tmp_path / "base")
    study = ["-m", "cal_bench", "study", config.name, "--out"]
    alone, told = run([sys.executable, *study, "alone"], tmp_path)
    own = run([*TWO, *study, "own"], tmp_path)
    launched = run([sys.executable, *study, "launched", "--launcher", " ".join(TWO)], tmp_path)
    assert alone == (tmp_path / "alone" / "tables.md").read_text()
    warning = "records were longer than 210 tokens and were cut"
    assert told.count(warning) == 2
    for out, (said, told) in (("own", own), ("launched", launched)):
        assert told.count(warning) == 2
        assert told.count("baseline: stage it, without CAL") == (1 if out == "own" else 2)  # the training process says it again
        assert said == (tmp_path / out / "tables.md").read_text()
        for arm in ("baseline", "cal"):
            records = [json.loads((tmp_path / folder / "arms" / arm / "it" / "train.json").read_text()) for folder in ("alone", out)]
            assert records[1]["status"] == "complete"
            assert min(record["truncated_samples"] for record in records) > 0
            assert records[1]["loss"]["last"] == pytest.approx(records[0]["loss"]["last"], rel=1e-4)
            assert records[1]["steps"] == 2


def test_the_slurm_examples_are_bash_and_go_on_after_preemption() -> None:
    scripts = sorted((Path(__file__).parents[1] / "examples" / "slurm").glob("*.sbatch"))
    assert [script.name for script in scripts] == ["node.sbatch", "nodes.sbatch"]
    for script in scripts:
        subprocess.run(["bash", "-n", str(script)], check=True)
        assert "--requeue" in script.read_text()
