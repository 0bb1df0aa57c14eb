import json
import os
import struct

import pytest

from cal_bench.checkpoints import processor_fingerprint, weight_files, weights_fingerprint
from cal_bench.errors import UserError


def save_weights(path, values, metadata=None):
    data = struct.pack(f"<{len(values)}f", *values)
    header = {"w": {"dtype": "F32", "shape": [len(values)], "data_offsets": [0, len(data)]}}
    if metadata:
        header["__metadata__"] = metadata
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_weights(folder / "model.safetensors", [1.0, 2.0], {"format": "pt"})
    return folder


def test_a_fingerprint_is_of_names_and_contents_only(checkpoint):
    before = weights_fingerprint(checkpoint)
    os.utime(checkpoint / "model.safetensors", (0, 0))
    (checkpoint / "train.json").write_text("{}")
    assert weights_fingerprint(str(checkpoint)) == before
    (checkpoint / "model.safetensors").rename(checkpoint / "other.safetensors")
    assert weights_fingerprint(checkpoint) != before
    (checkpoint / "other.safetensors").unlink()
    save_weights(checkpoint / "model.safetensors", [1.0, 2.5], {"format": "pt"})
    assert weights_fingerprint(checkpoint) != before


def test_the_processors_fingerprint_follows_settings_but_not_who_saved_them(checkpoint):
    config = {"image_token_id": 4, "text_config": {"rope_theta": 1e4, "dtype": "float32"}, "transformers_version": "5.0.0"}
    end = {"eos_token_id": 2}

    def saved(config, end):
        (checkpoint / "config.json").write_text(json.dumps(config))
        (checkpoint / "generation_config.json").write_text(json.dumps(end))
        return processor_fingerprint(checkpoint)

    before = saved(config, end)
    newer = {"transformers_version": "5.1.0", "text_config": {"dtype": "bfloat16", "rope_theta": 1e4}, "image_token_id": 4}
    assert saved(newer, end) == before
    assert saved({**config, "text_config": {"rope_theta": 1e6}}, end) != before
    assert saved(config, {"eos_token_id": [2, 7]}) != before
    (checkpoint / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json cannot be read"):
        processor_fingerprint(checkpoint)


def test_the_processors_fingerprint_follows_the_chat_template(checkpoint):
    (checkpoint / "chat_template.jinja").write_text("one")
    before = processor_fingerprint(checkpoint)
    (checkpoint / "config.json").write_text("{ }")
    assert processor_fingerprint(checkpoint) == before
    (checkpoint / "chat_template.jinja").write_text("two")
    assert processor_fingerprint(checkpoint) != before


@pytest.mark.parametrize("size", [0, 5, 8, 20, -1])
def test_truncated_weights_are_refused(checkpoint, size):
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UserError, match=r"model\.safetensors is damaged or half-written"):
        weights_fingerprint(checkpoint)


def test_weights_with_a_tail_or_a_broken_header_are_refused(checkpoint):
    path = checkpoint / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole + b"x")
    with pytest.raises(UserError, match="its header promises"):
        weights_fingerprint(checkpoint)
    path.write_bytes(whole[:8] + b"#" + whole[9:])
    with pytest.raises(UserError, match="its header cannot be read"):
        weights_fingerprint(checkpoint)


def test_a_missing_shard_is_named(checkpoint):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"names model-00002-of-00002\.safetensors, which is not there"):
        weight_files(checkpoint)
    save_weights(checkpoint / "model-00002-of-00002.safetensors", [1.0])
    assert len(weight_files(checkpoint)) == 2
    (checkpoint / "model.safetensors.index.json").write_text('{"weight_')
    with pytest.raises(UserError, match="its list of weights cannot be read"):
        weight_files(checkpoint)


def test_a_missing_folder_is_a_message_with_the_nearest_name(checkpoint):
    with pytest.raises(UserError, match=r"There is no model folder .*modle'\. Did you mean 'model'"):
        weights_fingerprint(checkpoint.parent / "modle")


def test_folders_without_a_checkpoint_are_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(UserError, match="holds no weights"):
        weights_fingerprint(checkpoint)
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="pickled weights"):
        weights_fingerprint(checkpoint)
    (checkpoint / "config.json").unlink()
    with pytest.raises(UserError, match="not a checkpoint: it has no config"):
        weights_fingerprint(checkpoint)
