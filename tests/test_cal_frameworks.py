"""CAL under LLaMA-Factory and ms-swift: their own commands where they are installed; what they hand to a model, everywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import Trainer

import cal_bench.trainer_plugin as cal
from cal_bench.trainer_plugin import CALConfig, CALError, CALTrainer
from tests.test_cal_model import batch
from tests.test_cal_trainer import EQUAL, STRONG, arguments, collate, rows
from tests.tiny import IMAGE_ID, SIDE, save_tiny, tiny_model

ROOT = Path(__file__).parent.parent
PLUGINS = ROOT / "examples" / "trainer" / "frameworks"
SETTINGS = {
    "max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "learning_rate": 1e-4, "logging_steps": 1,
    "save_strategy": "no", "report_to": "none", "seed": 1,
}  # fmt: skip


def chats(folder: Path) -> Path:
    """Eight exchanges in the form that both read; every fourth is text alone."""
    found = []
    for number in range(8):
        answer = {"role": "assistant", "content": f"Shade {number}" * (1 + number % 3)}
        if number % 4 == 3:
            found.append({"messages": [{"role": "user", "content": f"What is {number}?"}, answer], "images": []})
            continue
        picture = folder / f"{number}.png"
        Image.new("RGB", (SIDE, SIDE), (30 * number, 255 - 30 * number, 90)).save(picture)
        found.append({"messages": [{"role": "user", "content": "<image>\nWhich colour?"}, answer], "images": [str(picture)]})
    (folder / "chats.json").write_text(json.dumps(found), encoding="utf-8")
    return folder / "chats.json"


def run(*command: str | Path) -> None:
    quiet = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([str(part) for part in command], env={**os.environ, **quiet}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def llama_factory(folder: Path, plugin: Path | None) -> list[dict[str, float]]:
    out, data = folder / f"out_{plugin and plugin.stem}", chats(folder)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images"}
    listed = {"chats": {"file_name": data.name, "formatting": "sharegpt", "columns": columns, "tags": tags}}
    (folder / "dataset_info.json").write_text(json.dumps(listed), encoding="utf-8")
    settings = SETTINGS | {
        "model_name_or_path": str(folder / "model"), "template": "llava", "stage": "sft", "do_train": True, "finetuning_type": "full",
        "dataset": "chats", "dataset_dir": str(folder), "cutoff_len": 256, "output_dir": str(out), "use_cpu": True,
    }  # fmt: skip
    (folder / "train.yaml").write_text(json.dumps(settings), encoding="utf-8")
    entry = [plugin] if plugin else ["-c", "from llamafactory.train.tuner import run_exp; run_exp()"]
    run(sys.executable, *entry, folder / "train.yaml")
    history = json.loads((out / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [line for line in history if "loss" in line]


def ms_swift(folder: Path, plugin: Path | None) -> list[dict[str, float]]:
    out = folder / f"out_{plugin and plugin.stem}"
    flags = SETTINGS | {
        "model": folder / "model", "model_type": "llava1_5_hf", "template": "llava1_5_hf", "dataset": chats(folder), "output_dir": out,
        "add_version": "false", "tuner_type": "full", "torch_dtype": "float32", "split_dataset_ratio": 0, "check_model": "false",
        "use_hf": "true", "load_from_cache_file": "false",
    }  # fmt: skip
    flags |= {"external_plugins": plugin} if plugin else {"use_logits_to_keep": "false"}
    run(Path(sys.executable).with_name("swift"), "sft", *(str(part) for name, value in flags.items() for part in (f"--{name}", value)))
    lines = (out / "logging.jsonl").read_text(encoding="utf-8").splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


FRAMEWORKS = {"llama_factory": ("llamafactory.train.sft.workflow", llama_factory), "ms_swift": ("swift.trainers", ms_swift)}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_trains_with_cal(name: str, tmp_path: Path) -> None:
    module, trained = FRAMEWORKS[name]
    pytest.importorskip(module, reason=f"{name} is not installed, or not for this transformers", exc_type=ImportError)
    save_tiny(tmp_path / "model")
    text = (PLUGINS / f"{name}.py").read_text(encoding="utf-8")
    assert "cal=CALConfig()" in text
    (tmp_path / "equal.py").write_text(text.replace("cal=CALConfig()", "cal=CALConfig(alpha=1, beta=1)"), encoding="utf-8")
    stock, equal, weighted = (trained(tmp_path, plugin) for plugin in (None, tmp_path / "equal.py", PLUGINS / f"{name}.py"))
    assert len(stock) == 2
    for measure in ("loss", "grad_norm"):
        expected = [line[measure] for line in stock]
        assert [line[measure] for line in equal] == pytest.approx(expected, rel=1e-5)
        assert [line[measure] for line in weighted] != pytest.approx(expected, rel=1e-3)
    # A model that has learned nothing owes little to its pictures: of its weights few are above the lower bound, in some steps none.
    weights = [line["cal/weight_mean"] for line in weighted]
    assert 1 <= min(weights) < max(weights) < 5


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_the_documentation_shows_the_file(name: str) -> None:
    text = (PLUGINS / f"{name}.py").read_text(encoding="utf-8")
    shown = f"```python\n{text[text.index('from typing') :].rstrip()}\n```"
    assert shown in (ROOT / "docs" / "trainer_plugin.md").read_text(encoding="utf-8")


# --- what such frameworks hand to a model


def test_texts_packed_into_one_row_are_refused() -> None:
    model, inputs = tiny_model().train(), batch(2)
    cal.apply(model, STRONG)
    length = inputs["input_ids"].shape[1]
    with pytest.raises(CALError, match=r"padding_free.*pack=True"):
        model(**inputs, position_ids=torch.cat([torch.arange(7), torch.arange(length - 7)])[None])
    with pytest.raises(CALError, match="turn its packing off"):
        model(**inputs | {"attention_mask": torch.ones(2, 1, length, length).tril()})


def test_positions_that_begin_behind_padding_are_no_packing() -> None:
    model, inputs = tiny_model().train(), {name: value.clone() for name, value in batch(2).items()}
    inputs["attention_mask"][0, :2] = 0
    # As generate counts them: 1 where there is padding.
    inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).masked_fill(inputs["attention_mask"] == 0, 1)
    cal.apply(model, STRONG)
    assert model(**inputs).loss.isfinite()


def test_a_picture_hidden_in_the_padding_is_no_picture() -> None:
    text = batch(0, 2)
    fill = {"input_ids": IMAGE_ID, "attention_mask": 0, "labels": -100}
    inputs = {name: torch.cat([text[name], torch.full((2, 4), fill[name])], dim=1) for name in fill}
    inputs["pixel_values"] = torch.randn(2, 3, SIDE, SIDE)
    model = tiny_model().train()
    stock = model(**text).loss
    handle = cal.apply(model, STRONG)
    torch.testing.assert_close(model(**inputs).loss, stock, rtol=1e-5, atol=0)
    assert handle.stats.means(handle.stats.take()) == {}


@pytest.mark.parametrize("normalize", ["micro", "sample"])
def test_trainers_that_would_not_divide_a_mean_are_refused(normalize: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Trainer, "loss_is_scaled_for_ga", raising=False)
    shared: dict[str, Any] = {"args": arguments(tmp_path), "train_dataset": rows(), "data_collator": collate}
    with pytest.raises(CALError, match=r"5\.19 or newer"):
        CALTrainer(tiny_model(), cal=CALConfig(normalize=normalize), **shared)
    CALTrainer(tiny_model(), cal=EQUAL, **shared)
