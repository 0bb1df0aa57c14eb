"""A config that says only what differs from another, and the studies of the paper that are written so."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from cal_bench.config import dump_study, load_several, load_study, recipes
from cal_bench.errors import UserError
from cal_bench.trainer_plugin import CALConfig
from tests.test_config import STUDY

SWEEPS = ("mini-stages", "mini-clamp", "mini-contrast", "mini-pooling", "mini-signal", "mini-overhead")
NOISE = ("mini-noise-0", "mini-noise-10", "mini-noise-20", "mini-noise-30")


def write(folder: Path, name: str, content: dict[str, Any]) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def refusal(config: str) -> str:
    with pytest.raises(UserError) as caught:
        load_study(config)
    return str(caught.value)


def test_what_is_not_said_comes_from_the_base_and_arms_are_replaced_whole(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", STUDY)
    changed = {"name": "own", "base": "base.yaml", "stages": {"it": {"swap": 0.3}}, "arms": {"one": {}, "two": {"pt": {}}}, "seed": 4}
    study = load_study(write(tmp_path, "own.yaml", changed))
    plain = load_study(str(tmp_path / "base.yaml"), seed=4)
    assert (study.name, study.model, study.seed, study.evaluate) == ("own", plain.model, 4, plain.evaluate)
    assert study.arms == {"one": {}, "two": {"pt": CALConfig()}}
    assert study.stages["pt"] == plain.stages["pt"]
    assert (study.stages["it"].swap, study.stages["it"].learning_rate) == (0.3, plain.stages["it"].learning_rate)


def test_a_base_may_be_a_recipe_or_have_a_base_itself(tmp_path: Path) -> None:
    write(tmp_path, "middle.yaml", {"name": "middle", "base": "mini-llava15", "seed": 7})
    study = load_study(write(tmp_path, "own.yaml", {"name": "own", "base": "middle.yaml", "world": {"test": 9}}))
    recipe = load_study("mini-llava15")
    assert study.world is not None
    assert recipe.world is not None
    assert (study.seed, study.world.test, study.world.train) == (7, 9, recipe.world.train)
    assert study.arms == recipe.arms


def test_what_is_written_has_no_base(tmp_path: Path) -> None:
    write(tmp_path, "base.yaml", STUDY)
    study = load_study(write(tmp_path, "own.yaml", {"name": "own", "base": "base.yaml"}))
    written = tmp_path / "config.yaml"
    written.write_text(dump_study(study, tmp_path), encoding="utf-8")
    assert "base" not in yaml.safe_load(written.read_text())
    assert load_study(str(written)) == study


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        (
            {"base": "mini-lava15"},
            "has the base 'mini-lava15', which is neither a file beside it nor a recipe. Did you mean 'mini-llava15'?",
        ),
        ({"base": 3}, "has the base 3. Expected the name of a recipe"),
        ({"base": "own.yaml"}, "is its own base"),
        ({"base": "circle.yaml"}, "is its own base"),
        ({"base": "mini-table1"}, "mini-table1.yaml, lists several studies. Give one of them: mini-llava15, mini-mgm"),
        ({"base": "demo", "name": None}, "name: expected text, got None"),
        ({"base": "demo", "stages": {"pt": {"swop": 0.1}}}, "stages.pt: there is no key 'swop'. Did you mean 'swap'?"),
        ({"base": "demo", "stages": {"sft": {"swap": 0.1}}}, "stages.sft.data: is missing"),
    ],
)
def test_a_wrong_base_is_told(tmp_path: Path, changed: dict[str, Any], told: str) -> None:
    write(tmp_path, "circle.yaml", {"name": "circle", "base": "own.yaml"})
    assert told in refusal(write(tmp_path, "own.yaml", {"name": "own", **changed}))


def test_a_name_is_never_taken_from_the_base(tmp_path: Path) -> None:
    assert "name: expected text, got None" in refusal(write(tmp_path, "own.yaml", {"base": "demo"}))


def test_the_sweeps_train_half_as_long_in_one_world_and_differ_in_their_arms_alone() -> None:
    whole = load_study("mini-llava15")
    assert whole.world is not None
    for name in (*SWEEPS, *NOISE):
        study = load_study(name)
        assert (study.name, study.model) == (name, whole.model)
        assert study.world is not None
        assert (study.world.seed, study.world.test, study.world.scale) == (whole.world.seed, whole.world.test, whole.world.scale)
        assert (study.world.pretrain, study.world.train) == (whole.world.pretrain // 2, whole.world.train * 3 // 8)
        if name in SWEEPS:
            # To look on while a stage trains changes nothing of it.
            assert {stage: replace(settings, label_check=None) for stage, settings in study.stages.items()} == whole.stages


def test_the_arms_are_those_of_the_papers_tables() -> None:
    assert {name: set(arm) for name, arm in load_study("mini-stages").arms.items()} == {
        "baseline": set(),
        "pt": {"pt"},
        "it": {"it"},
        "both": {"pt", "it"},
    }
    clamps = {name: (arm["it"].alpha, arm["it"].beta) for name, arm in load_study("mini-clamp").arms.items() if arm}
    assert clamps == {"0-inf": (0, None), "0-5": (0, 5), "1-inf": (1, None), "1-5": (1, 5)}
    arms = load_study("mini-contrast").arms
    assert [arms[name]["it"].mask_ratio for name in arms if name.startswith("mask")] == [0.5, 0.7, 0.9]
    assert [arms[name]["it"].sigma for name in arms if name.startswith("blur")] == [1, 10]
    assert {arm["it"].contrast for arm in arms.values() if arm} == {"drop", "patch_mask", "blur"}
    assert load_study("mini-overhead").arms == {"stock": {}, "authors": {"it": CALConfig.published()}, "ours": {"it": CALConfig()}}
    windows = {(arm["it"].pooling, arm["it"].window) for arm in load_study("mini-pooling").arms.values() if arm}
    assert windows == {("within_row", 1), ("within_row", 3), ("within_row", 5), ("published", 3), ("published", 5)}
    signals = {(arm["it"].signal, arm["it"].quantile) for arm in load_study("mini-signal").arms.values() if arm}
    assert signals == {("logit", None), ("logp", None), ("logit", 0.9), ("logp", 0.9)}


def test_both_stages_of_an_arm_have_the_same_settings() -> None:
    for name in ("mini-clamp", "mini-contrast", "mini-pooling", "mini-signal"):
        assert all(arm["pt"] == arm["it"] for arm in load_study(name).arms.values() if arm)


def test_the_noise_is_the_only_difference_between_the_four() -> None:
    several = load_several("mini-noise")
    assert several is not None
    assert several.studies == NOISE
    assert set(NOISE) <= set(recipes())
    studies = [load_study(name) for name in several.studies]
    assert [{stage.swap for stage in study.stages.values()} for study in studies] == [{0.0}, {0.1}, {0.2}, {0.3}]
    assert all((study.arms, study.world, study.evaluate) == (studies[0].arms, studies[0].world, studies[0].evaluate) for study in studies)


def test_the_examples_of_the_page_are_studies(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    examples = [block.partition("```")[0] for block in page.split("```yaml\n")[1:]]
    assert len(examples) == 2
    for number, example in enumerate(examples):
        (tmp_path / f"{number}.yaml").write_text(example, encoding="utf-8")
        study = load_study(str(tmp_path / f"{number}.yaml"))
        assert f"name: {study.name}\n" in example
        assert next(iter(study.arms)) == "baseline"


def test_every_study_of_the_page_is_a_recipe() -> None:
    page = (Path(__file__).resolve().parents[1] / "docs" / "studies.md").read_text(encoding="utf-8")
    listed = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `mini-")}
    assert listed == {"mini-table1", "mini-noise", *SWEEPS}
    assert listed <= set(recipes())
