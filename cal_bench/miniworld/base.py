"""The shipped tiny base: its tokenizer, the shape of its language model, and how the four systems are put together from it."""

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPVisionModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from cal_bench.systems.anatomy import SYSTEMS as FULL_SIZE
from cal_bench.systems.anatomy import System
from cal_bench.systems.convert import Parts, from_scratch
from cal_bench.trainer_plugin.templates import CHAT_TEMPLATES, SYSTEM

from . import texts
from .conversations import DETAIL
from .scene import SIDE
from .tower import INDEX, WORD_WIDTH, word_vectors
from .vocabulary import CONTENT, DAYS, MONTHS, MOODS

BASE = Path(__file__).parent / "base"
# The high resolution is that of the worlds' large pictures; MGM-HD cuts it into four tiles for the other tower.
SYSTEMS = {
    "llava-1.5": FULL_SIZE["llava-1.5"],
    "llava-next": FULL_SIZE["llava-next"],
    "mgm": System(high_res_size=2 * SIDE),
    "mgm-hd": System(high_res_size=2 * SIDE, image_grid=2, image_global=True),
}
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
        num_attention_heads=8,
        head_dim=WORD_WIDTH // 4,  # what an item says is passed on in several heads at once: one is too narrow to tell its words apart
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
    for head in range(attention.q_proj.out_features // size):
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


def save_language(language: LlamaForCausalLM, folder: Path) -> None:
    """Write the language model and its tokenizer, weights in half precision (they are loaded in float32)."""
    language.half().save_pretrained(folder / "language")
    build_tokenizer().save_pretrained(folder / "tokenizer")


def save_vision(tower: CLIPVisionModel, projector: nn.Sequential, folder: Path) -> None:
    """Write the tower and the projector behind it, weights in half precision."""
    tower.half().save_pretrained(folder / "tower")
    save_joints({"multi_modal_projector": projector_weights(projector)}, folder / "projector")


def projector_weights(projector: nn.Sequential) -> dict[str, Tensor]:
    """By the names that they have in LLaVA: linear layer, GELU, linear layer."""
    return {f"linear_{1 + int(name[0]) // 2}{name[1:]}": weight for name, weight in projector.state_dict().items()}


def save_joints(joints: dict[str, dict[str, Tensor]], folder: Path) -> None:
    """Write weights that join towers and language model, by part and by name, as `from_scratch` reads an adapter."""
    folder.mkdir(parents=True, exist_ok=True)
    named = {f"model.{part}.{name}": weight.half() for part, weights in joints.items() for name, weight in weights.items()}
    save_file(named, folder / "model.safetensors")


def assemble(folder: Path, system: str = "llava-1.5") -> None:
    """Write a miniature of one of the four systems to `folder`, put together from the shipped parts and not trained on any caption yet.

    The folder appears whole or not at all. Differences from the full-size system: features of the tower's last layer (it was
    trained to be read there; CLIP is read at the last but one), 128-px tiles of 64 visual tokens, and a projector (for MGM mining, too)
    that has been shown the words of patches (in the originals these begin at random, and need more pairs than a demo has).
    """
    adapter = "mining" if SYSTEMS[system].high_res_size else "projector"
    parts = Parts(BASE / "language", BASE / "tower", BASE / "convnext", BASE / adapter, tokenizer=BASE / "tokenizer", layer=-1)
    folder.parent.mkdir(parents=True, exist_ok=True)
    from_scratch(SYSTEMS[system], parts, folder)
