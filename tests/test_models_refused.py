"""Checkpoints that cannot answer questions about pictures, or not on this machine."""

import json
from pathlib import Path

import pytest

from cal_bench.errors import UserError
from cal_bench.models import HFModel
from cal_bench.tasks.base import Generation, Sample
from tests.tiny import save_tiny

QUESTION = Sample(0, "What is it?", list, Generation(2, ()), "", None)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder of its own for each test."""
    return save_tiny(tmp_path / "tiny")


def test_an_encoder_with_a_decoder_is_refused(tiny: Path) -> None:
    (tiny / "config.json").write_text('{"model_type": "florence2"}')
    with pytest.raises(UserError, match="type 'florence2' with an encoder and a decoder, which is not supported"):
        HFModel(tiny)


def test_a_chat_template_without_a_place_for_a_picture_is_refused(tiny: Path) -> None:
    (tiny / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m['content'] | selectattr('text') | map(attribute='text') | join }}{% endfor %}"
    )
    with pytest.raises(UserError, match="writes nothing where a picture is shown"):
        HFModel(tiny)


def test_weights_of_another_shape_are_told(tiny: Path) -> None:
    config = json.loads((tiny / "config.json").read_text())
    config["text_config"]["intermediate_size"] = 48
    (tiny / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot be loaded on cpu in float32"):
        list(HFModel(tiny, device="cpu").answer([QUESTION]))
