"""The label-level check: the area under the curve, the truth of each label token, and that training does not notice it."""

import functools
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from cal_bench import cli, label_check
from cal_bench.errors import UserError
from cal_bench.look.deltas import deltas_of
from cal_bench.look.held_out import Wanted, hold_out, judge, kinds_of
from cal_bench.look.opened import Opened
from cal_bench.look.separation import Judged, auc, separation
from cal_bench.miniworld.base import build_tokenizer
from cal_bench.train import StageConfig, train_stage
from cal_bench.trainer_plugin import CALConfig
from cal_bench.trainer_plugin.data import ConversationDataset, DataOptions, TextEncoder
from cal_bench.trainer_plugin.loss import IGNORED
from cal_bench.trainer_plugin.templates import SYSTEM, render
from tests.tiny import save_tiny, tiny_model, tiny_processor, write_data

FEW = functools.partial(Wanted, count=3)


def test_the_area_under_the_curve_by_hand() -> None:
    # Pairs of a positive (2, 3) and a negative (1, 2): three are right, one is a tie.
    values, positive = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, False, True, True])
    assert auc(values, positive) == 3.5 / 4
    assert auc(values, ~positive) == 0.5 / 4
    assert auc(np.ones(4), positive) == 0.5
    assert np.isnan(auc(values, np.ones(4, bool)))


def test_the_area_is_the_share_of_pairs_that_are_in_order() -> None:
    drawing = np.random.default_rng(0)
    values, positive, weights = drawing.integers(0, 9, 60) / 4, drawing.random(60) < 0.4, drawing.integers(0, 4, 60)
    again = np.repeat(np.arange(60), weights)
    pairs = list(itertools.product(values[again][positive[again]], values[again][~positive[again]]))
    expected = sum(1.0 if right > wrong else 0.5 if right == wrong else 0.0 for right, wrong in pairs) / len(pairs)
    assert auc(values, positive, weights.astype(float)) == pytest.approx(expected)


def judged(kinds: list[str], values: list[float]) -> Judged:
    one = np.array(values)
    return Judged({"logit": one, "logp": -one}, np.array(kinds), np.arange(len(kinds)) % 4)


def test_separation_tells_each_comparison_by_each_signal_and_leaves_out_what_is_not_there() -> None:
    found = separation(judged(["visual"] * 4 + ["other"] * 4 + ["swapped"] * 4, [3.0, 4, 5, 6, 0, 1, 2, 3, 3, 4, 5, 6]))
    assert found["auc"]["visual against other"]["logit"][0] == 15.5 / 16
    assert found["auc"]["visual against other"]["logp"][0] == 0.5 / 16
    middle, low, high = found["auc"]["right against swapped picture"]["logit"]
    assert middle == 0.5
    assert low <= 0.5 <= high
    assert found["auc"]["visual against invented"] == {"logit": None, "logp": None}
    assert found["tokens"] == {"visual": 4, "other": 4, "invented": 0, "swapped": 4}
    assert found["mean_delta"]["logit"] == {"visual": 4.5, "other": 1.5, "invented": None, "swapped": 4.5}
    assert found["conversations"] == 4


def test_the_interval_draws_conversations_not_tokens() -> None:
    # Each conversation's tokens are all alike: a thousand of them say no more than four conversations do.
    talks = np.repeat(np.arange(4), 500)
    kinds = np.tile(["visual", "other"], 1000)
    values = np.where(kinds == "visual", np.array([0.0, 3.0, 1.5, 3.0])[talks], np.array([1.0, 2.0, 1.5, 1.0])[talks])
    middle, low, high = separation(Judged({"logit": values}, kinds, talks))["auc"]["visual against other"]["logit"]
    assert middle == pytest.approx(auc(values, kinds == "visual"))
    assert high - low > 0.3


TALK = [{"from": "human", "value": "<image>\nWhat is red?"}, {"from": "gpt", "value": "A red car and a blue kite."}]
TALK += [{"from": "human", "value": "And?"}, {"from": "gpt", "value": "10"}]
SPANS = [[(2, 5, "visual"), (6, 9, "visual"), (16, 25, "invented")], [(0, 2, "visual")]]


def spiece() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space in front of every text, as SentencePiece does: whole words, or else letters."""
    letters = sorted(set("".join(turn["value"] for turn in TALK) + SYSTEM + "▁USERASSISTANT:<>/\n"))
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0), ("<image>", 0.0), *((letter, -5.0) for letter in letters)]
    pieces += [("▁red", -1.0), ("▁blue", -1.0), ("kite", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(["<s>", "</s>", "<image>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")


@pytest.mark.parametrize(("make", "whole"), [(build_tokenizer, False), (spiece, True)])
def test_the_truth_is_told_for_each_label_token(make: Any, whole: bool) -> None:
    tokenizer = make()
    encoder = TextEncoder(tokenizer, "v1")
    assert encoder.whole == whole
    segments = render(TALK, "v1")
    labels = [label for label in encoder.encode(segments, [2], tokenizer.convert_tokens_to_ids("<image>"))[1] if label != IGNORED]
    kinds = kinds_of(encoder, segments, SPANS)
    assert len(kinds) == len(labels)
    texts: dict[str, str] = {"visual": "", "invented": "", "other": ""}
    for kind, label in zip(kinds, labels, strict=True):
        texts[kind] += tokenizer.convert_ids_to_tokens(label)
    assert texts["visual"].replace("▁", "") == "redcar10"
    assert texts["invented"].replace("▁", "") == "bluekite"
    assert texts["other"].replace("▁", "") == "Aanda.</s></s>"


def test_captions_have_their_truth_too() -> None:
    tokenizer = build_tokenizer()
    segments = render([{"from": "human", "value": "<image>\nSay."}, {"from": "gpt", "value": "A red car."}], "plain")
    kinds = kinds_of(TextEncoder(tokenizer, "plain"), segments, [[(2, 9, "visual")]])
    assert kinds == ("other", "visual", "visual", "other", "other")


def opened() -> Opened:
    return Opened("tiny", tiny_model().eval(), tiny_processor())


def test_visual_tokens_are_read_again_with_another_conversations_picture() -> None:
    model = opened()
    held_out = hold_out(model.processor, FEW())
    pictures = [[record.images for record in dataset.records] for dataset in (held_out.right, held_out.swapped)]
    assert pictures[1] == [*pictures[0][1:], pictures[0][0]]
    found = judge(model, held_out)
    kinds = [kind for own in held_out.kinds for kind in own]
    visual = [place for place, kind in enumerate(kinds) if kind == "visual"]
    assert found.kinds.tolist() == kinds + ["swapped"] * len(visual)
    wrong = deltas_of(model, held_out.swapped, range(3)).by_signal["logp"]
    np.testing.assert_array_equal(found.deltas["logp"][len(kinds) :], wrong[visual])
    assert not np.allclose(found.deltas["logp"][visual], wrong[visual])


@pytest.mark.parametrize("template", ["v1", "plain"])
def test_held_out_conversations_have_labels_of_every_kind(template: str) -> None:
    held_out = hold_out(tiny_processor(), Wanted(count=32, template=template))
    assert {kind for own in held_out.kinds for kind in own} == {"visual", "other", "invented"}


def stage(folder: Path, **settings: Any) -> StageConfig:
    trained = ("model.multi_modal_projector", "model.language_model", "lm_head")
    defaults = {"data": (str(folder / "train.json"),), "images": str(folder / "images"), "template": "v1", "train": trained}
    defaults |= {"learning_rate": 1e-3, "batch_size": 2, "per_device_batch_size": 2, "max_steps": 3, "swap": 0.5}
    return StageConfig(**(defaults | settings))


@pytest.mark.parametrize("cal", [None, CALConfig()])
def test_a_training_is_the_same_with_and_without_the_check(
    cal: CALConfig | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(label_check, "Wanted", FEW)
    base = save_tiny(tmp_path / "base", dropout=0.1)
    write_data(tmp_path)
    # Drop-out draws random numbers at every step: a check that drew any would show.
    train_stage(base, tmp_path / "arm" / "plain", stage(tmp_path), cal)
    train_stage(base, tmp_path / "arm" / "checked", stage(tmp_path, label_check=2), cal)
    plain, checked = (load_file(tmp_path / "arm" / name / "model.safetensors") for name in ("plain", "checked"))
    assert all(torch.equal(weight, checked[name]) for name, weight in plain.items())

    moments = [json.loads(line) for line in (tmp_path / "arm" / "checked" / "labels.jsonl").read_text().splitlines()]
    assert [moment["step"] for moment in moments] == [0, 2, 3]
    assert moments[0]["auc"] != moments[1]["auc"]
    assert moments[0]["conversations"] == 3
    assert not (tmp_path / "arm" / "plain" / "labels.jsonl").exists()

    out = tmp_path / "out"
    assert cli.main(["look", "labels", str(tmp_path / "arm" / "checked"), "--out", str(out)]) == 0
    assert json.loads((out / "labels.json").read_text())["models"] == {"arm/checked": moments}
    assert (out / "labels.png").read_bytes().startswith(b"\x89PNG")
    # Whoever says how it is to be measured gets it measured so.
    assert cli.main(["look", "labels", str(tmp_path / "arm" / "checked"), "--count", "3", "--out", str(out)]) == 0
    (moment,) = json.loads((out / "labels.json").read_text())["models"]["arm/checked"]
    assert moment["conversations"] == 3
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["arm/checked", "3", "logit"]


def test_a_checkpoint_that_was_trained_without_the_check_is_measured_now(tmp_path: Path) -> None:
    save_tiny(tmp_path / "arm" / "it")
    out = tmp_path / "out"
    assert cli.main(["look", "labels", str(tmp_path / "arm" / "it"), "--count", "4", "--out", str(out)]) == 0
    (moment,) = json.loads((out / "labels.json").read_text())["models"]["arm/it"]
    assert (moment["step"], moment["conversations"]) == (0, 4)
    expected = separation(judge(opened(), hold_out(tiny_processor(), Wanted(count=4))))
    assert moment["auc"]["visual against other"]["logp"] == pytest.approx(expected["auc"]["visual against other"]["logp"], abs=1e-3)


def test_a_training_that_goes_on_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    check = label_check.LabelCheck(file, 2, tiny_processor(), FEW())
    file.write_text("".join(json.dumps({"step": step}) + "\n" for step in (0, 2, 4)))
    state: Any = SimpleNamespace(global_step=3, is_world_process_zero=True, max_steps=9)
    check.on_train_begin(None, state, None, model=None)  # type: ignore[arg-type]
    assert [json.loads(line)["step"] for line in file.read_text().splitlines()] == [0, 2]


def test_the_check_draws_pictures_of_the_trainings_size_and_refuses_no_steps(tmp_path: Path) -> None:
    write_data(tmp_path, rows=2)
    Image.new("RGB", (256, 256)).save(tmp_path / "images" / "0.png")
    dataset = ConversationDataset([tmp_path / "train.json"], tmp_path / "images", DataOptions("v1"), tiny_processor())
    assert label_check._scale(dataset) == 2
    with pytest.raises(UserError, match="label_check is 0"):
        label_check.label_check(tmp_path, 0, dataset)
