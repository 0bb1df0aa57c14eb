"""Reading a checkpoint folder: its processor, its weights, and how it answers."""

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

from cal_bench.errors import UserError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)


def load_processor(folder: Path) -> Any:
    """The processor of a checkpoint; a folder that cannot answer questions about pictures is refused."""
    from transformers import AutoConfig, AutoProcessor, ProcessorMixin
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:
        raise UserError(f"The config.json of {folder} is not one that transformers knows: {error}") from error
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise UserError(f"{folder} holds a model of type '{config.model_type}', which does not answer questions about pictures.")
    if config.is_encoder_decoder:
        raise UserError(f"{folder} holds a model of type '{config.model_type}' with an encoder and a decoder, which is not supported.")
    missing = UserError(
        f"{folder} has no processor (image processor and tokenizer). Save it beside the weights: "
        "AutoProcessor.from_pretrained(<base model>).save_pretrained(<folder>)."
    )
    try:
        processor = AutoProcessor.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError) as error:
        raise missing from error
    if not isinstance(processor, ProcessorMixin):  # without a processor's config transformers gives the bare tokenizer
        raise missing
    if not processor.chat_template:
        raise UserError(
            f"{folder} has no chat template, so it is not known how it was trained to be asked. "
            "Put the template of its training into chat_template.jinja in that folder."
        )
    if processor.tokenizer.pad_token_id is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return processor


def load_weights(folder: Path, device: str, dtype: str) -> Any:
    """The model, ready to answer; a checkpoint that lacks a weight is refused."""
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    if "OMP_NUM_THREADS" not in os.environ:  # torchrun sets it, so that its processes share the cores
        torch.set_num_threads(os.cpu_count() or 1)
    if device == "cpu":
        _keep_freed_memory()
    logging.disable_progress_bar()
    try:
        model, told = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=getattr(torch, dtype), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        model = model.to(device).eval()
    except RuntimeError as error:  # out of memory, weights of other shapes than in config.json, a device that is not there
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The checkpoint {folder} cannot be loaded on {device} in {dtype}: {reason}") from error
    if missing := sorted(told["missing_keys"]):
        raise UserError(f"The checkpoint {folder} lacks {len(missing)} of its weights, the first is {missing[0]}. Copy or train it again.")
    return model


def _keep_freed_memory() -> None:
    """Have glibc keep the memory of large tensors for the next ones, instead of fetching it page by page in every operation."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_THRESHOLD, 1 << 30)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def greedy(own: Any, tokenizer: Any) -> Any:
    """Greedy for every model: of a checkpoint's own settings, such as sampling or a repetition penalty, only its end token counts."""
    from transformers import GenerationConfig

    end = tokenizer.eos_token_id if own.eos_token_id is None else own.eos_token_id
    return GenerationConfig(
        do_sample=False, num_beams=1, bos_token_id=own.bos_token_id, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
    )
