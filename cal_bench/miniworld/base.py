"""The shipped tiny base: its tokenizer, the shape of its language model, and how a miniature LLaVA-1.5 is put together from it."""

import math
import os
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModel,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES, SYSTEM

from . import texts
from .conversations import DETAIL
from .scene import GRID, PATCH, SIDE
from .tower import INDEX, MEAN, STD, WORD_WIDTH, word_vectors
from .vocabulary import CONTENT, DAYS, MONTHS, MOODS

BASE = Path(__file__).parent / "base"
ROPE_THETA = 500_000.0
# Stock sentences are single tokens: they are the same in every sample, and a tiny model has no time to read them.
STOCK = (
    SYSTEM,
    texts.SHORT[1:],
    texts.WORD[1:],
    texts.LETTER[1:],
    texts.LETTER_OF_OPTIONS[1:],
    texts.CHARACTER[1:],
    texts.CAPTION,
    texts.BOX_FORMAT.strip(),
    texts.BOX.strip(),
    texts.REGION.strip(),
    *DETAIL,
)
PLAIN_WORDS = tuple(
    (
        "a an and are as at be by can do does each for from had has have here how i if in is it its me more most my no nobody not "
        "number of on or other our so some than that the their them then there these they thing things think this to two up was "
        "we well what when where which who will with word would written you your USER ASSISTANT A An The There Here It What Which "
        "Where Is Are How Does In My Nobody Perhaps I B C D This Context Options Reference OCR token Question Answer Yes No image "
        "picture sign says say said chart bar bars page item value highest lowest many color colour kind next also nearby taken "
        "found old album last look something scene could any friend sent one looks like morning makes knows made but feels mood "
        "days wall home call leave see Say about comes after before day month own Tell lines Please provide short description "
        "region sentence describes Repeat words coordinate bounding box using single character given options "
    ).split()
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level vocabulary with a byte for everything else; text and tokens convert both ways without loss."""
    words = dict.fromkeys((*CONTENT, *PLAIN_WORDS, *DAYS, *MONTHS, *MOODS))
    pieces = ["<unk>", "<s>", "</s>", "<pad>", "<image>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁["]
    pieces += [chr(code) for code in range(33, 127)] + ["\n"]
    pieces += [f"▁{word}" for word in words] + [word for word in words if len(word) > 1]
    decimals = [f"{number / 100:.2f}" for number in range(101)]
    pieces += decimals + [f"▁{decimal}" for decimal in decimals]
    pieces = list(dict.fromkeys(pieces))
    # Longer pieces are likelier than the sum of their parts, so a known word is always one token.
    scores = [(piece, -10.0 if len(piece) > 1 else -20.0) for piece in pieces]
    tokenizer = Tokenizer(models.Unigram(scores, unk_id=0, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    words_and_numbers = r"▁?[01]\.\d\d(?!\d)|▁?\d{1,2}|▁?\p{L}+|▁?\[|▁|[^▁]"
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(words_and_numbers), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(
        [AddedToken(name, normalized=False, special=True) for name in ("<unk>", "<s>", "</s>", "<pad>", "<image>")]
    )
    tokenizer.add_tokens([AddedToken(sentence, normalized=False) for sentence in STOCK])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATES["v1"],
        clean_up_tokenization_spaces=False,
        extra_special_tokens={"image_token": "<image>"},
    )


def new_language_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Untrained. Content words have the vectors that the tower's patches are trained to name, as input and as output."""
    config = LlamaConfig(
        vocab_size=math.ceil(len(tokenizer) / 64) * 64,
        hidden_size=WORD_WIDTH,
        intermediate_size=432,
        num_hidden_layers=5,
        num_attention_heads=4,
        max_position_embeddings=2048,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
        attention_bias=True,
        initializer_range=WORD_WIDTH**-0.5,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        nn.init.normal_(model.model.embed_tokens.weight, std=0.05)
        vectors = word_vectors()
        for word, index in INDEX.items():
            model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids(f"▁{word}")] = vectors[index]
        model.lm_head.weight.copy_(model.model.embed_tokens.weight)
        for number, layer in enumerate(model.model.layers):
            _initialise(layer, number == 0)
    return model


# Of 20 pairs of a head's numbers, those that rotary positions turn fastest: they tell neighbours apart, and little else.
FAST = 6
NEIGHBOURS = (1, 2, 3)  # how far back the first layer's heads look


def _initialise(layer: nn.Module, first: bool) -> None:
    """Heads that begin with something to do; from random attention this model takes tens of thousands of steps to look anything up.

    The first layer notes at each token what stands one, two and three tokens back. Every other head begins with "like attends to
    like, and what is found is passed on" (mimetic initialisation, Trockman and Kolter 2023), half of them looking away from the token
    itself. What layers add begins small beside the token's own vector, or nothing would be like anything after the first.
    """
    attention, size = layer.self_attn, layer.self_attn.head_dim
    hidden = attention.v_proj.in_features
    for part in (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj):
        nn.init.zeros_(part.bias)
    nn.init.orthogonal_(attention.v_proj.weight)
    attention.o_proj.weight.copy_(0.1 * attention.v_proj.weight.T)
    layer.mlp.down_proj.weight.mul_(0.03)
    for head in range(hidden // size):
        rows = slice(head * size, (head + 1) * size)
        alike = 1.5 * nn.init.orthogonal_(torch.empty(size, hidden))
        alike[_fast_rows(size)] *= 0.1
        query, key = torch.zeros(size), torch.zeros(size)
        if first and head < len(NEIGHBOURS):
            alike *= 0.1
            query, key = _looking_back(NEIGHBOURS[head], size)
            attention.o_proj.weight[:, rows] = 0.1 * nn.init.orthogonal_(torch.empty(hidden, size))
        elif not first and head % 2 == 0:
            query, key = (0.52 * vector for vector in _looking_back(0, size))
            query = -query
        attention.q_proj.weight[rows] = alike
        attention.k_proj.weight[rows] = alike + 0.01 * torch.randn_like(alike)
        attention.q_proj.bias[rows], attention.k_proj.bias[rows] = query, key


def _fast_rows(size: int) -> Tensor:
    return torch.arange(size) % (size // 2) < FAST


def _looking_back(distance: int, size: int) -> tuple[Tensor, Tensor]:
    """Biases of query and key with which a token attends to the one `distance` before it, whatever either is."""
    angle = -distance * ROPE_THETA ** (-torch.arange(0, size, 2) / size)
    fast = 5.0 * _fast_rows(size)[: size // 2]
    return torch.cat([fast * angle.cos(), fast * angle.sin()]), torch.cat([fast, 0 * fast])


def image_processor() -> CLIPImageProcessorPil:
    square = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square, image_mean=list(MEAN), image_std=list(STD))


def save_base(tower: CLIPVisionModel, projector: nn.Sequential, language: LlamaForCausalLM, folder: Path) -> None:
    """Write the parts and the tokenizer, weights in half precision (they are loaded in float32)."""
    tower.half().save_pretrained(folder / "tower")
    language.half().save_pretrained(folder / "language")
    build_tokenizer().save_pretrained(folder / "tokenizer")
    save_file(projector.half().state_dict(), folder / "projector.safetensors")


def assemble(folder: Path) -> None:
    """Write a miniature LLaVA-1.5 to `folder`, put together from the shipped parts and not trained on any caption yet.

    The folder appears whole or not at all. Differences from the full-size system: features of the tower's last layer (it was
    trained to be read there; CLIP is read at the last but one), 128-px pictures, 64 visual tokens, and a projector that has been
    shown the words of patches (LLaVA's begins at random, and needs more pairs than a demo has to find them).
    """
    disable_progress_bar()  # of reading and writing weights this small
    tower = CLIPVisionModel.from_pretrained(BASE / "tower", dtype=torch.float32)
    language = LlamaForCausalLM.from_pretrained(BASE / "language", dtype=torch.float32)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BASE / "tokenizer")
    config = LlavaConfig(
        vision_config=tower.config,
        text_config=language.config,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        projector_hidden_act="gelu",
        vision_feature_select_strategy="default",
        vision_feature_layer=-1,
        image_seq_length=GRID * GRID,
        tie_word_embeddings=False,
    )
    model = LlavaForConditionalGeneration(config)
    model.model.vision_tower.load_state_dict(tower.state_dict())
    model.model.language_model.load_state_dict(language.model.state_dict())
    model.lm_head.load_state_dict(language.lm_head.state_dict())
    for layer, part in zip(("linear_1", "linear_2"), _projector(), strict=True):
        getattr(model.model.multi_modal_projector, layer).load_state_dict(part)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".assemble-") as draft:
        model.save_pretrained(Path(draft) / "model")
        _processor(tokenizer).save_pretrained(Path(draft) / "model")
        os.replace(Path(draft) / "model", folder)


def _processor(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    return LlavaProcessor(
        image_processor=image_processor(),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=CHAT_TEMPLATES["v1"],
    )


def _projector() -> list[dict[str, Tensor]]:
    """Weight and bias of its two layers."""
    weights = load_file(BASE / "projector.safetensors")
    return [{name: weights[f"{layer}.{name}"].float() for name in ("weight", "bias")} for layer in (0, 2)]
