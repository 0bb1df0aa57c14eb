"""LLaVA-1.5 and LLaVA-NeXT as the original code shows them pictures and text.

transformers' defaults for the same checkpoints crop pictures (LLaVA-1.5), break ties between grids another way (LLaVA-NeXT), ask
without the system sentence, and lose the space that SentencePiece puts in front of what follows a picture.
"""

from typing import Any

from tokenizers import pre_tokenizers
from transformers import LlavaImageProcessorPil, LlavaNextImageProcessorPil, LlavaNextProcessor, LlavaProcessor

from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES

from .mgm_processor import MgmProcessor

SIDE, PATCH = 336, 14
# Tiles as (rows, columns), in the order of the original list: of grids that fit equally well the first is taken.
GRIDS = ((2, 1), (1, 2), (2, 2), (1, 3), (3, 1))


def image_processor(side: int = SIDE, pad: bool = True, **colours: Any) -> LlavaImageProcessorPil:
    """LLaVA-1.5's: a square filled up with the mean colour; without `pad` (its pre-training) the middle of the picture.

    `colours` are image_mean and image_std, CLIP's if not given.
    """
    return LlavaImageProcessorPil(do_pad=pad, size={"shortest_edge": side}, crop_size={"height": side, "width": side}, **colours)


def tiling_image_processor(side: int = SIDE, **colours: Any) -> LlavaNextImageProcessorPil:
    """LLaVA-NeXT's: the whole picture small, and tiles of it."""
    pinpoints = [[rows * side, columns * side] for rows, columns in GRIDS]
    square = {"height": side, "width": side}
    return LlavaNextImageProcessorPil(image_grid_pinpoints=pinpoints, size={"shortest_edge": side}, crop_size=square, **colours)


def as_original(processor: Any) -> bool:
    """Change a LLaVA processor in place to what the original code does; False, and nothing done, for any other.

    Towers other than CLIP, whose pictures are not cropped or whose first token is kept, are none of the original's. Grids other than
    the original's stay, and so does a chat template that is not Vicuna's (USER and ASSISTANT): such a checkpoint was trained with them.
    """
    if not isinstance(processor, LlavaProcessor | LlavaNextProcessor):
        return False
    before = processor.image_processor
    if not getattr(before, "crop_size", None) or processor.vision_feature_select_strategy not in (None, "default"):
        return False
    make = image_processor if isinstance(processor, LlavaProcessor) else tiling_image_processor
    made = make(before.crop_size["height"], image_mean=before.image_mean, image_std=before.image_std)
    if isinstance(processor, LlavaNextProcessor) and sorted(made.image_grid_pinpoints) != sorted(before.image_grid_pinpoints):
        made.image_grid_pinpoints = before.image_grid_pinpoints
    processor.image_processor = made
    processor.patch_size = processor.patch_size or PATCH
    processor.vision_feature_select_strategy = "default"
    processor.num_additional_image_tokens = 1
    _space_once(processor.tokenizer)
    if "ASSISTANT" in (processor.chat_template or "ASSISTANT"):
        processor.chat_template = chat_template("v1", processor)
    return True


def share_grids(model: Any, processor: Any) -> None:
    """LLaVA-NeXT: the model takes a picture's tiles apart by the grids that the processor cut it by, in the same order."""
    if isinstance(processor, LlavaNextProcessor):
        model.config.image_grid_pinpoints = processor.image_processor.image_grid_pinpoints


def fill_square(processor: Any, pad: bool) -> None:
    """LLaVA-1.5 and MGM: show a picture whole in a square of the mean colour, or else its middle; other systems as they are."""
    if isinstance(processor, LlavaProcessor | MgmProcessor):
        processor.image_processor.do_pad = pad


def chat_template(name: str, processor: Any) -> str | None:
    """The chat template with which `processor` writes what a model was trained on; None where the name has none.

    The original tokenizes the text behind a picture by itself. Where that begins with SentencePiece's space, the template writes it.
    """
    template = CHAT_TEMPLATES.get(name)
    if template is None or not isinstance(processor, LlavaProcessor | LlavaNextProcessor) or not _begins_with_space(processor.tokenizer):
        return template
    return template.replace("+ '\n' + said.text", "+ ' \n' + said.text")


def _begins_with_space(tokenizer: Any) -> bool:
    begun: bool = tokenizer.tokenize("a")[0].startswith("▁")
    return begun


def _space_once(tokenizer: Any) -> None:
    """A space in front of a text, but not of each of its parts: none after `</s>`, as in the original."""
    splitting = tokenizer.backend_tokenizer.pre_tokenizer
    if isinstance(splitting, pre_tokenizers.Metaspace) and splitting.prepend_scheme == "always":
        splitting.prepend_scheme = "first"
        tokenizer.legacy = tokenizer.init_kwargs["legacy"] = False
