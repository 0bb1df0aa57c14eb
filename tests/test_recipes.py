"""The nine rows of the paper's Tables 1 and 2: their settings, their true sizes without weights, and how many tokens a picture has."""

import json
from pathlib import Path

import pytest

from cal_bench.config import StudyConfig, load_study
from cal_bench.errors import UserError
from cal_bench.plan import CAPTION_TOKENS, base_commands, image_tokens, make_plan
from cal_bench.plan_text import next_lines, plan_lines
from cal_bench.preflight import outlined
from cal_bench.stage_arguments import accumulation_steps
from cal_bench.systems.anatomy import SYSTEMS, processor
from cal_bench.systems.known import known_config
from cal_bench.systems.register import register
from cal_bench.trainer_plugin import CALConfig
from tests.shared import SHARED, needs_shared
from tests.test_from_scratch import CLIP_L, CONVNEXT_L, LANGUAGE, MINING, PROJECTOR
from tests.test_llava_processing import word_tokenizer

# Recipe: system, language model, the paper's GPUs, micro-batches of the two stages, length of instruction tuning.
ROWS = {
    "mgm-2b": ("mgm", "2B", 8, (8, 8), 2048),
    "mgm-7b": ("mgm", "7B", 16, (16, 8), 2048),
    "mgm-13b": ("mgm", "13B", 16, (8, 4), 2048),
    "mgm-hd-7b": ("mgm-hd", "7B", 16, (16, 4), 4096),
    "mgm-hd-13b": ("mgm-hd", "13B", 32, (8, 4), 4096),
    "llava15-7b": ("llava-1.5", "7B", 8, (32, 16), 2048),
    "llava15-13b": ("llava-1.5", "13B", 8, (32, 16), 2048),
    "llava-next-7b": ("llava-next", "7B", 16, (16, 8), 4096),
    "llava-next-13b": ("llava-next", "13B", 16, (16, 8), 4096),
}
WIDTH = {"2B": 2048, "7B": 4096, "13B": 5120}
TOKENS = {"llava-1.5": 576, "mgm": 576, "mgm-hd": 2880}
GRIDS = SHARED / "fixtures" / "preprocess" / "anyres_grid.json"


@pytest.fixture(params=list(ROWS))
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> StudyConfig:
    return load_study(request.param, data_root=str(tmp_path))


def test_a_recipe_has_the_settings_of_its_row(recipe: StudyConfig) -> None:
    system, language, gpus, micro, longest = ROWS[recipe.name]
    assert recipe.parts is not None
    assert (recipe.parts.system, recipe.gpus) == (system, gpus)
    assert language.lower() in recipe.parts.language
    pt, it = recipe.stages["pt"], recipe.stages["it"]
    # Section 3.1 of the paper; the batch sizes are those of LLaVA's and MGM's scripts.
    assert (pt.learning_rate, pt.batch_size, it.learning_rate, it.batch_size) == (1e-3, 256, 2e-5, 128)
    assert (pt.per_device_batch_size, it.per_device_batch_size) == micro
    assert (pt.epochs, it.epochs, pt.warmup, it.warmup) == (1, 1, 0.03, 0.03)
    assert it.max_length == longest
    assert (pt.group_by_modality_length, it.group_by_modality_length) == (False, True)
    assert (pt.template, it.template) == (("gemma", "gemma") if language == "2B" else ("plain", "v1"))
    assert recipe.arms == {"baseline": {}, "cal": {"pt": CALConfig(), "it": CALConfig()}}
    cal = recipe.arms["cal"]["it"]
    assert (cal.alpha, cal.beta, cal.window) == (1, 5, 3)
    assert len(recipe.evaluate.benchmarks) == 15


def test_what_each_system_trains(recipe: StudyConfig) -> None:
    system, *_ = ROWS[recipe.name]
    joints = {"model.multi_modal_projector"} | ({"model.patch_info_mining"} if system.startswith("mgm") else set())
    assert set(recipe.stages["pt"].train) == joints
    beyond = {"model.image_newline", "model.vision_tower"} if system == "llava-next" else set()
    assert set(recipe.stages["it"].train) == joints | beyond | {"model.language_model", "lm_head"}
    assert recipe.stages["it"].learning_rate_factors == ({"model.vision_tower": 0.1} if beyond else {})
    # Pre-training crops pictures (LLaVA-1.5 and MGM), and MGM-HD is pre-trained as MGM.
    assert recipe.stages["pt"].image_aspect_ratio == ("pad" if beyond else "square")
    assert recipe.stages["it"].image_aspect_ratio == "pad"
    assert [stage.image_grid for stage in recipe.stages.values()] == ([1, 2] if system == "mgm-hd" else [None, None])


def test_a_recipe_has_the_size_of_its_row_and_a_plan(recipe: StudyConfig, tmp_path: Path) -> None:
    system, language, gpus, *_ = ROWS[recipe.name]
    plan = make_plan(recipe, tmp_path / "out")
    wanted = LANGUAGE[language] + CLIP_L + PROJECTOR[language]
    wanted += CONVNEXT_L + MINING if system.startswith("mgm") else 0
    wanted += WIDTH[language] if system == "llava-next" else 0  # the token between rows
    # The image token, and 63 rows that make a round number of them; Gemma's head is its embeddings.
    wanted += 64 * WIDTH[language] * (1 if language == "2B" else 2)
    for stage in plan.stages.values():
        assert stage.sizes.parameters == wanted
        assert stage.steps is not None
        assert not stage.exact
    joints = PROJECTOR[language] + (MINING if system.startswith("mgm") else 0)
    assert plan.stages["pt"].sizes.trained == joints
    frozen = sum(plan.stages["it"].counts["frozen"].values())
    assert frozen == (0 if system == "llava-next" else CLIP_L + (CONVNEXT_L if system.startswith("mgm") else 0))
    text = "\n".join(plan_lines(recipe.name, [plan], next_lines([plan], f"cal-bench study {recipe.name}")))
    assert f"Plan of {recipe.name} on {gpus} GPUs" in text
    assert f"cal-bench convert --from-scratch {system} --language {tmp_path}" in text
    assert ("--convnext" in text) == system.startswith("mgm")
    assert f"model: {recipe.model}" in text
    assert not (tmp_path / "out").exists()


def test_the_batch_is_the_same_on_any_number_of_processes(recipe: StudyConfig) -> None:
    for stage in recipe.stages.values():
        for processes in (1, 2, 4, 8):
            assert stage.per_device_batch_size * processes * accumulation_steps(stage, processes) == stage.batch_size
        for processes in (3, 4096):
            with pytest.raises(UserError, match="not a multiple of per_device_batch_size"):
                accumulation_steps(stage, processes)


@needs_shared
def test_pictures_have_as_many_tokens_as_the_originals(recipe: StudyConfig) -> None:
    system, *_ = ROWS[recipe.name]
    register()
    assert recipe.parts is not None
    config = known_config(system, recipe.parts.language)
    made = processor(SYSTEMS[system], config, word_tokenizer())
    cases = json.loads(GRIDS.read_text())["sizes"]
    assert len(cases) == 400
    found = made._get_num_multimodal_tokens(image_sizes=[(case["height"], case["width"]) for case in cases]).num_image_tokens
    wanted = [TOKENS.get(system, case["image_tokens"]) for case in cases]
    assert found == wanted
    # No picture has more than what the plan reckons with.
    assert image_tokens(config, recipe.stages["it"]) == TOKENS.get(system, 2928)
    assert max(wanted) <= 2928


def test_captions_are_planned_for_at_their_own_length() -> None:
    plan = make_plan(load_study("llava15-7b"), Path("out"))
    assert plan.stages["pt"].sizes.tokens == 32 * (576 + CAPTION_TOKENS)
    assert plan.stages["it"].sizes.tokens == 16 * 2048


def test_the_vocabulary_of_an_outline_is_that_of_a_converted_base() -> None:
    register()
    config = known_config("llava-1.5", "lmsys/vicuna-7b-v1.5")
    assert (config.text_config.vocab_size, config.image_token_index) == (32064, 32000)
    assert outlined(config).get_output_embeddings().weight.shape == (32064, 4096)


def test_parts_that_were_fetched_are_taken_from_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study("mgm-7b", data_root=str(tmp_path))
    before = base_commands(study)
    assert [line.split()[0] for line in before] == ["hf", "hf", "hf", "cal-bench"]
    assert before[0] == f"hf download lmsys/vicuna-7b-v1.5 --local-dir {tmp_path}/models/vicuna-7b-v1.5"
    cached = {"openai/clip-vit-large-patch14-336": tmp_path / "cache" / "clip"}
    monkeypatch.setattr("cal_bench.plan._cached", cached.get)
    for folder in (tmp_path / "models" / "vicuna-7b-v1.5", tmp_path / "cache" / "clip"):
        folder.mkdir(parents=True)
    convnext, convert = base_commands(study)
    assert convnext.startswith("hf download laion/")
    assert f"--language {tmp_path}/models/vicuna-7b-v1.5 --clip {tmp_path}/cache/clip --convnext" in convert


@pytest.mark.parametrize(
    ("system", "language", "told"),
    [
        ("llava15", "lmsys/vicuna-7b-v1.5", "'llava15' is not known. Did you mean"),
        ("mgm", "vicuna", "parts.language: 'vicuna' is not known"),
    ],
)
def test_unknown_parts_are_named(system: str, language: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        known_config(system, language)
