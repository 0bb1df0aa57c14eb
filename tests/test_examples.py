"""Every example runs as it stands, on a tiny model, and leaves a model that transformers can load."""

import runpy
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

from tests.tiny import save_tiny, write_data

EXAMPLES = sorted((Path(__file__).parent.parent / "examples" / "trainer").glob("*.py"))
NEEDS = {"trl_sft": "trl", "lora": "peft"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    if example.stem in NEEDS:
        pytest.importorskip(NEEDS[example.stem])
    monkeypatch.setenv("CI", "1")  # TRL's telemetry waits for the network
    model, data, out = save_tiny(tmp_path / "model"), write_data(tmp_path), tmp_path / "out"
    monkeypatch.setattr(
        sys, "argv", [example.name, str(model), str(data), "--images", str(tmp_path / "images"), "--steps", "2", "--out", str(out)]
    )
    runpy.run_path(str(example), run_name="__main__")
    printed = capsys.readouterr().out
    assert "weight_mean" in printed
    assert str(out) in printed
    if example.stem == "lora":
        assert (out / "adapter_model.safetensors").is_file()
        return
    before, after = (AutoModelForImageTextToText.from_pretrained(folder).state_dict() for folder in (model, out))
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert all(value.isfinite().all() for value in after.values())


def test_every_trainer_has_its_example() -> None:
    assert {path.stem for path in EXAMPLES} == {"hf_trainer", "patch_only", "plain_loop", "trl_sft", "lora"}
