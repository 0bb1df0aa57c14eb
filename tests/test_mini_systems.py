"""The four systems in miniature: put together from the shipped parts, through both stages with CAL, to tables."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from cal_bench.cli import main
from cal_bench.config import StudyConfig, dump_study, load_several, load_study, recipes
from cal_bench.errors import UserError
from cal_bench.evidence import read_rows
from cal_bench.miniworld import MINIATURES, WorldSizes, assemble
from cal_bench.miniworld.base import BASE
from cal_bench.miniworld.bench import bench_rows
from cal_bench.miniworld.draw import draw
from cal_bench.miniworld.projector import first_projector
from cal_bench.miniworld.reading import read
from cal_bench.miniworld.scene import LAYOUTS, SIDE, make_scene
from cal_bench.miniworld.tower import Reader
from cal_bench.published import row_labels
from cal_bench.study import run_study

RECIPES = {"mini-llava15": 64, "mini-llava-next": 64 + 16 * 17, "mini-mgm": 64, "mini-mgm-hd": 5 * 64}
TINY = WorldSizes(pretrain=4, train=8, test=2, seed=1, scale=2)


def cut_down(name: str, benchmarks: tuple[str, ...], **changes: object) -> StudyConfig:
    """A recipe with two steps of two samples in each stage."""
    study = load_study(name)
    short = {"max_steps": 2, "batch_size": 2, "per_device_batch_size": 2}
    stages = {stage: dataclasses.replace(config, **short) for stage, config in study.stages.items()}
    evaluate = dataclasses.replace(study.evaluate, benchmarks=benchmarks)
    return dataclasses.replace(study, world=TINY, stages=stages, evaluate=evaluate, **changes)


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_system_trains_in_both_stages_and_answers(name: str, tmp_path: Path) -> None:
    study = cut_down(name, ("pope",), arms={"cal": load_study(name).arms["cal"]})
    outcome = run_study(study, tmp_path, f"cal-bench study {name}")
    assert outcome.complete
    assert "POPE" in outcome.tables
    record = read_rows([tmp_path]).arms["cal"]["pope"]
    assert record.n == 2


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_picture_is_as_many_tokens_as_the_system_says(name: str, tmp_path: Path) -> None:
    from transformers import AutoProcessor

    from cal_bench.systems.register import register

    register()
    assemble(tmp_path / "base", MINIATURES[load_study(name).model])
    processor = AutoProcessor.from_pretrained(tmp_path / "base")
    batch = processor(images=[draw(make_scene(1), 2)], text="<image>\nWhat is it?", return_tensors="pt")
    assert int((batch.input_ids == processor.image_token_id).sum()) == RECIPES[name]


def test_several_studies_make_one_table_with_both_resolutions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("mini-llava15", "mini-mgm-hd")
    for name in names:
        study = cut_down(name, ("chartqa", "refcocog_val"))
        study = dataclasses.replace(study, stages={"it": study.stages["it"]}, arms={"baseline": {}, "cal": {"it": study.arms["cal"]["it"]}})
        (tmp_path / f"{name}.yaml").write_text(dump_study(study, tmp_path), encoding="utf-8")
    several = tmp_path / "several.yaml"
    several.write_text(yaml.safe_dump({"name": "several", "studies": [f"{name}.yaml" for name in names]}), encoding="utf-8")
    assert main(["study", str(several), "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert printed == (tmp_path / "out" / "tables.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1].strip() for line in printed.split("### ")[1].splitlines() if line.startswith("|")]
    assert rows[2:] == ["*Low resolution*", "LLaVA-1.5", "LLaVA-1.5+CAL", "*High resolution*", "MGM-HD", "MGM-HD+CAL"]
    assert (tmp_path / "out" / "mini-mgm-hd" / "data").resolve() == (tmp_path / "out" / "data").resolve()
    # The folder of several studies is read as that of one.
    assert main(["table", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out == printed


def test_the_table_recipe_names_recipes_of_one_world() -> None:
    several = load_several("mini-table1")
    assert several is not None
    assert set(several.studies) == set(RECIPES) <= set(recipes())
    studies = [load_study(name) for name in several.studies]
    assert len({study.world for study in studies}) == 1
    assert {MINIATURES[study.model] for study in studies} == set(MINIATURES.values())
    with pytest.raises(UserError, match=r"lists several studies\. Give one of them: mini-llava15"):
        load_study("mini-table1")


@pytest.mark.parametrize("content", [{"studies": ["demo"]}, {"name": "x", "studies": []}, {"name": "x", "studies": ["demo"], "seed": 1}])
def test_a_list_of_studies_has_a_name_and_nothing_else(content: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(UserError, match="two keys"):
        load_several(str(tmp_path / "x.yaml"))


def test_an_unknown_miniature_is_suggested(tmp_path: Path) -> None:
    raw = yaml.safe_load(recipes()["mini-mgm"].read_text(encoding="utf-8")) | {"model": "miniworld/mmg"}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    with pytest.raises(UserError, match="Did you mean 'miniworld/mgm'"):
        load_study(str(tmp_path / "x.yaml"))


def test_miniatures_have_the_labels_of_their_systems() -> None:
    for name, method in {"mini-llava15": "LLaVA-1.5", "mini-llava-next": "LLaVA-NeXT", "mini-mgm": "MGM", "mini-mgm-hd": "MGM-HD"}.items():
        setting = "high" if name in ("mini-llava-next", "mini-mgm-hd") else "low"
        assert row_labels(name) == {"setting": setting, "method": method, "llm": "Miniature"}
        assert row_labels(f"{name}+cal")["method"] == f"{method}+CAL"
    assert row_labels("mini-other") == row_labels("demo") == {}


def test_a_large_picture_is_the_small_one_with_more_detail() -> None:
    for seed in range(40):
        scene = make_scene(seed, (LAYOUTS[seed % 4],))
        small, large = draw(scene), draw(scene, 2)
        assert large.size == (2 * SIDE, 2 * SIDE)
        shrunk = np.asarray(large, dtype=float).reshape(SIDE, 2, SIDE, 2, 3).mean((1, 3))
        assert np.abs(shrunk - np.asarray(small, dtype=float)).mean() < 4


def test_boxes_are_the_same_part_of_a_picture_of_any_scale() -> None:
    small, large = (bench_rows("refcocog_val", 5, 3, scale) for scale in (1, 2))
    for one, two in zip(small, large, strict=True):
        assert two["bbox"] == [2 * at for at in one["bbox"]]
        assert two["answer"] == one["answer"]


def test_all_shipped_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in BASE.rglob("*") if path.is_file()) <= 16 * 2**20


@pytest.mark.parametrize("system", ["llava-1.5", "mgm"])
def test_the_shipped_parts_read_large_pictures_before_any_training(system: str, tmp_path: Path) -> None:
    assemble(tmp_path / system, system)
    shares = read(tmp_path / system, scale=2, count=30)
    for entity, kind in (("thing", "colour"), ("thing", "row"), ("line", "key"), ("line", "number"), ("bar", "colour")):
        assert shares[entity, kind] > 0.75, (entity, kind)


def test_the_shipped_projector_names_words_before_any_training(tmp_path: Path) -> None:
    assemble(tmp_path / "llava")
    shares = read(tmp_path / "llava", count=60)
    for entity, kind in (("thing", "noun"), ("sign", "word"), ("line", "key"), ("line", "word"), ("bar", "word"), ("bar", "number")):
        assert shares[entity, kind] > 0.85, (entity, kind)


def test_a_first_projector_rotates_what_the_tower_sees() -> None:
    torch.manual_seed(0)
    reader = Reader()
    projector = first_projector(reader)
    # As large as features of this tower are, around which GELU was laid out.
    features = reader.tower(pixel_values=torch.randn(2, 3, SIDE, SIDE)).last_hidden_state[:, 1:]
    aim = features @ reader.rotation
    told = torch.nn.functional.cosine_similarity(projector(features), aim, dim=-1)
    assert told.abs().min() > 0.99  # an untrained tower may see the opposite
