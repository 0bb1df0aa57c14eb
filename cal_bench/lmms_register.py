"""What lmms-eval finds by our entry point: a model named `cal_hf`. Imported with lmms-eval's own list, so nothing heavy is here."""

from typing import Any


def manifest() -> Any:
    """The name and where the class is; called by lmms-eval."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("cal_hf", simple_class_path="cal_bench.lmms_model.CalHF")
