"""Configs: every problem is told at once, and what is written can be read again."""

from pathlib import Path

import pytest
import yaml

from cal_bench.config import StudyConfig, dump_study, in_world, load_several, load_study, recipes
from cal_bench.errors import UserError
from cal_bench.tasks import names
from cal_bench.trainer_plugin import CALConfig

STAGE = {
    "data": ["train.json"],
    "images": "images",
    "template": "v1",
    "train": ["model.multi_modal_projector"],
    "learning_rate": 1e-3,
    "batch_size": 8,
    "per_device_batch_size": 4,
}
STUDY = {
    "name": "small",
    "model": "base",
    "stages": {"pt": {**STAGE, "template": "plain"}, "it": STAGE},
    "arms": {"baseline": {}, "cal": {"it": {"beta": 3}}},
    "evaluate": {"benchmarks": ["chartqa", "pope"], "data": "bench"},
}


def write(folder: Path, study: dict[str, object]) -> str:
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(study), encoding="utf-8")
    return str(path)


def problems_of(folder: Path, study: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        load_study(write(folder, study))
    return str(caught.value)


def test_a_study_is_read_with_paths_beside_the_config(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    study = load_study(write(tmp_path, STUDY))
    assert study.stages["pt"].data == (str(tmp_path / "train.json"),)
    assert study.stages["it"].images == str(tmp_path / "images")
    assert study.evaluate.data == str(tmp_path / "bench")
    assert study.model == str(tmp_path / "base")
    assert study.arms == {"baseline": {}, "cal": {"it": CALConfig(beta=3.0)}}


def test_a_model_that_is_no_folder_beside_the_config_stays_a_name(tmp_path: Path) -> None:
    assert load_study(write(tmp_path, {**STUDY, "model": "llava-hf/llava-1.5-7b-hf"})).model == "llava-hf/llava-1.5-7b-hf"


def test_the_seed_reaches_every_stage_and_a_flag_wins(tmp_path: Path) -> None:
    config = write(tmp_path, {**STUDY, "seed": 3})
    assert {stage.seed for stage in load_study(config).stages.values()} == {3}
    study = load_study(config, seed=7)
    assert study.seed == 7
    assert {stage.seed for stage in study.stages.values()} == {7}


def test_learning_rates_may_be_written_as_people_write_them(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY).replace("learning_rate: 0.001", "learning_rate: 1e-3"), encoding="utf-8")
    assert load_study(str(path)).stages["it"].learning_rate == 1e-3


def test_all_is_every_benchmark_and_the_default(tmp_path: Path) -> None:
    for evaluate in (None, {"data": "bench"}, {"benchmarks": "all", "data": "bench"}):
        assert load_study(write(tmp_path, {**STUDY, "evaluate": evaluate})).evaluate.benchmarks == names()


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    stage = {**STAGE, "lerning_rate": 1, "batch_size": "many"}
    del stage["learning_rate"]
    study = {
        "name": "a/b",
        "stages": {"pt": stage},
        "arms": {"cal": {"it": {}, "pt": {"alpha": 6}}},
        "evaluate": {"benchmarks": ["charqa"]},
        "sed": 1,
    }
    told = problems_of(tmp_path, study)
    assert "there is no key 'sed'. Did you mean 'seed'?" in told
    assert "stages.pt: there is no key 'lerning_rate'. Did you mean 'learning_rate'?" in told
    assert "stages.pt.learning_rate: is missing" in told
    assert "stages.pt.batch_size: expected a whole number, got 'many'" in told
    assert "arms.cal: there is no key 'it'" in told
    assert "arms.cal.pt: beta is 5.0" in told
    assert "evaluate.benchmarks: there is no benchmark 'charqa'. Did you mean 'chartqa'?" in told
    assert "model: expected text, got None" in told
    assert "'a/b' becomes the name of a folder" in told
    assert "has 9 problems" in told


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arms": {}}, "arms: expected a mapping with at least one entry"),
        ({"arms": {"cal": "yes"}}, "arms.cal: expected a mapping of stages to CAL settings, got 'yes'"),
        ({"stages": {"pt": None}}, "stages.pt: expected a mapping with the keys data, images"),
        ({"stages": {"pt": {**STAGE, "data": "train.json"}}}, "stages.pt.data: expected a list of text, got 'train.json'"),
        ({"stages": {"pt": {**STAGE, "seed": 1}}}, "stages.pt: there is no key 'seed'"),
        ({"stages": {"pt": {**STAGE, "per_device_batch_size": 0}}}, "stages.pt.per_device_batch_size: expected at least 1, got 0"),
        ({"stages": {"pt": {**STAGE, "save_steps": 0}}}, "stages.pt.save_steps: expected at least 1, got 0"),
        ({"stages": {"pt": {**STAGE, "label_check": -1}}}, "stages.pt.label_check: expected at least 1, got -1"),
        ({"stages": {"pt": {**STAGE, "learning_rate": 0}}}, "stages.pt.learning_rate: expected more than 0, got 0"),
        ({"stages": {"pt": {**STAGE, "swap": 20}}}, "stages.pt.swap: expected a share between 0 and 1, got 20"),
        ({"stages": {"pt": {**STAGE, "warmup": -1}}}, "stages.pt.warmup: expected a share, or a number of steps, got -1"),
        ({"evaluate": {"benchmarks": ["pope", "pope"]}}, "evaluate.benchmarks: pope is there 2 times"),
        ({"evaluate": {"limit": True}}, "evaluate.limit: expected a whole number, got True"),
        ({"evaluate": {"batch_size": 0}}, "evaluate.batch_size: expected at least 1, got 0"),
        ({"evaluate": {"benchmarks": []}}, "evaluate.benchmarks: expected at least one benchmark"),
        ({"seed": "one"}, "seed: expected a whole number, got 'one'"),
        ({"seed": -1}, "seed: expected a number from 0 to 2**32 - 1, got -1"),
        ({"base": ["demo", "real"]}, "has the base ['demo', 'real']. Expected the name of a recipe"),
        ({"bas": "demo"}, "there is no key 'bas'. Did you mean 'base'?"),
        ({"stages": {"pt": {**STAGE, "template": "V1"}}}, "stages.pt.template: there is no template 'V1'. Did you mean 'v1'?"),
        ({"arms": {"cal": {"it": {"pooling": "row"}}}}, "arms.cal.it: pooling is 'row'"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(tmp_path: Path, change: dict[str, object], told: str) -> None:
    assert told in problems_of(tmp_path, {**STUDY, **change})


def test_a_file_that_is_no_mapping_or_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    for text in ("- a list", "", "a: [1", "a: 1\na: 2"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"study\.yaml"):
            load_study(str(path))


def test_an_unknown_recipe_is_suggested(tmp_path: Path) -> None:
    assert "demo" in recipes()
    with pytest.raises(UserError, match="Did you mean 'demo'"):
        load_study("dmeo")


def test_every_recipe_is_a_study() -> None:
    for name in recipes():
        several = load_several(name)
        for one in several.studies if several else (name,):
            assert isinstance(load_study(one), StudyConfig)


@pytest.mark.parametrize("world", [None, {"train": 4, "pretrain": 4, "test": 4, "seed": 1}])
def test_what_is_written_can_be_read_again(tmp_path: Path, world: dict[str, int] | None) -> None:
    (tmp_path / "base").mkdir()
    out = tmp_path / "results" / "small"
    out.mkdir(parents=True)
    study = load_study(write(tmp_path, {**STUDY, **({"world": world} if world else {})}), seed=5)
    text = dump_study(study, out)
    assert str(tmp_path) not in text
    (out / "config.yaml").write_text(text, encoding="utf-8")
    again = load_study(str(out / "config.yaml"))
    assert again.arms == study.arms
    assert again.world == study.world
    assert Path(again.model).resolve() == Path(study.model).resolve()
    data = [Path(path).resolve() for path in again.stages["it"].data]
    assert data == [Path(path).resolve() for path in study.stages["it"].data]


def test_the_paths_of_a_study_with_a_world_start_in_the_world(tmp_path: Path) -> None:
    study = load_study(write(tmp_path, {**STUDY, "world": {"train": 4, "pretrain": 4, "test": 4, "seed": 1}}))
    assert study.evaluate.data == "bench"
    located = in_world(study, tmp_path / "drawn")
    assert located.evaluate.data == str(tmp_path / "drawn" / "bench")
    assert located.stages["it"].data == (str(tmp_path / "drawn" / "train.json"),)
