"""Image features, made once for each distinct picture."""

from typing import Any

from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from cal_bench.inputs import Pictures


class ImageFeatures:
    """What a model's towers and projector make of pictures. Those of the last batch are kept: samples that share one are neighbours."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._kept: dict[str, Tensor] = {}

    def of(self, pictures: Pictures) -> dict[str, BaseModelOutputWithPooling]:
        """The features of the pictures as they are shown, as `generate` takes them (mm_encoder_outputs)."""
        rows = [row for row, name in enumerate(pictures.names) if name not in self._kept]
        made = self._made({name: tensor[rows] for name, tensor in pictures.tensors.items()}) if rows else []
        found = self._kept | {pictures.names[row]: features for row, features in zip(rows, made, strict=True)}
        self._kept = {name: found[name] for name in pictures.names}
        shown = [found[pictures.names[row]] for own in pictures.shown for row in own]
        return {"image": BaseModelOutputWithPooling(pooler_output=shown)}

    def _made(self, tensors: dict[str, Any]) -> list[Tensor]:
        """[tokens, hidden] for each row."""
        features: list[Tensor] = self._model.get_image_features(**on_device_of(self._model, tensors)).pooler_output
        return features


def on_device_of(model: Any, tensors: Any) -> dict[str, Any]:
    """The tensors where the model is; floating-point ones in its precision."""
    return {
        name: tensor.to(model.device, model.dtype) if tensor.is_floating_point() else tensor.to(model.device)
        for name, tensor in tensors.items()
    }
