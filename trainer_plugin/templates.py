"""Conversations as text: which part is the prompt, which is the answer, and where the image stands.

LLaVA's own format: `{"id", "image"?, "conversations": [{"from": "human" | "gpt", "value"}]}`; `<image>` stands for the picture.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .config import CALError

IMAGE = "<image>"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant."
    " The assistant gives helpful, detailed, and polite answers to the user's questions."
)
Turn = Mapping[str, str]


@dataclass(frozen=True)
class Segment:
    """A stretch of the rendered conversation; the model learns the labelled ones."""

    text: str
    labelled: bool


@dataclass(frozen=True)
class Exchange:
    """What the person says, image in front, and what the model answers."""

    question: str
    answer: str


def render(conversations: Sequence[Turn], template: str) -> list[Segment]:
    """The whole conversation as segments, without the begin token, which the tokenizer adds."""
    if template == "plain" and len(conversations) != 2:
        raise CALError(f"template 'plain' is for captions: one exchange of two turns, not {len(conversations)} turns")
    return _template(template)(_exchanges(conversations))


def generation_prompt(conversations: Sequence[Turn], template: str) -> str:
    """The text up to where the last answer begins; a last answer in the conversation is left out."""
    if template == "plain":
        raise CALError("template 'plain' has no questions, and so no prompt; use v1 or gemma")
    unanswered = conversations if conversations and conversations[-1]["from"] == "human" else conversations[:-1]
    segments = _template(template)(_exchanges([*unanswered, {"from": "gpt", "value": ""}]))
    return "".join(segment.text for segment in segments[:-1])


def _template(name: str) -> Callable[[list[Exchange]], list[Segment]]:
    if name not in TEMPLATES:
        raise CALError(f"unknown template {name!r}; there are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def _exchanges(conversations: Sequence[Turn]) -> list[Exchange]:
    """Questions with their answers; an assistant that speaks first is dropped, as LLaVA's data code does."""
    turns = conversations[1:] if conversations and conversations[0]["from"] == "gpt" else conversations
    speakers = [turn["from"] for turn in turns]
    if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
        raise CALError(f"human and gpt must take turns, and gpt have the last word, but the speakers are {', '.join(speakers) or 'none'}")
    if any(IMAGE in turn["value"] for turn in turns[1::2]):
        raise CALError(f"an answer holds {IMAGE}, which only a question can")
    return [Exchange(_image_first(question["value"]), answer["value"]) for question, answer in zip(turns[::2], turns[1::2], strict=True)]


def _image_first(question: str) -> str:
    if IMAGE not in question:
        return question
    return f"{IMAGE}\n{question.replace(IMAGE, '').strip()}".strip()


def _plain(exchanges: list[Exchange]) -> list[Segment]:
    if IMAGE not in exchanges[0].question:
        raise CALError(f"template 'plain' is for captions, but there is no {IMAGE} in the question")
    return [Segment(IMAGE, False), Segment(exchanges[0].answer + "\n", True)]


def _v1(exchanges: list[Exchange]) -> list[Segment]:
    segments = []
    for number, exchange in enumerate(exchanges):
        before = f"{SYSTEM} " if number == 0 else ""
        segments.append(Segment(f"{before}USER: {exchange.question} ASSISTANT:", False))
        # The space belongs to the first token of the answer.
        segments.append(Segment(f" {exchange.answer}</s>", True))
    return segments


def _gemma(exchanges: list[Exchange]) -> list[Segment]:
    segments = []
    for exchange in exchanges:
        segments.append(Segment(f"<start_of_turn>user\n{exchange.question}<end_of_turn>\n<start_of_turn>model\n", False))
        segments.append(Segment(f"{exchange.answer}<end_of_turn>\n<eos>", True))
    return segments


TEMPLATES: dict[str, Callable[[list[Exchange]], list[Segment]]] = {"plain": _plain, "v1": _v1, "gemma": _gemma}

# Tokens that a template writes and that must be one token of the vocabulary each.
SPECIAL = {"plain": (), "v1": ("</s>",), "gemma": ("<start_of_turn>", "<end_of_turn>", "<eos>")}

_QUESTION = (
    "{%- macro question(content) -%}"
    "{%- if content is string -%}{{ content }}"
    "{%- else -%}"
    "{%- set said = namespace(text='', images=0) -%}"
    "{%- for part in content -%}"
    "{%- if part.type == 'image' -%}{%- set said.images = said.images + 1 -%}"
    "{%- elif part.type == 'text' -%}{%- set said.text = said.text + part.text -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if said.images -%}{{ ((['<image>'] * said.images) | join(' ') + '\n' + said.text | trim) | trim }}"
    "{%- else -%}{{ said.text }}{%- endif -%}"
    "{%- endif -%}"
    "{%- endmacro -%}"
)
_OTHER_ROLE = "{%- else -%}{{ raise_exception('The roles are user and assistant, not ' + message.role) }}{%- endif -%}"

# For apply_chat_template: the same texts as above, again without the begin token.
CHAT_TEMPLATES: dict[str, str] = {
    "v1": _QUESTION
    + f'{{{{ "{SYSTEM} " }}}}'
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'user' -%}{{ 'USER: ' + question(message.content) }}"
    + "{%- elif message.role == 'assistant' -%}{{ ' ASSISTANT: ' + question(message.content) + '</s>' }}"
    + _OTHER_ROLE
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ ' ASSISTANT:' }}{%- endif -%}",
    "gemma": _QUESTION
    + "{%- for message in messages -%}"
    + "{%- if message.role == 'user' -%}{{ '<start_of_turn>user\n' + question(message.content) + '<end_of_turn>\n' }}"
    + "{%- elif message.role == 'assistant' -%}{{ '<start_of_turn>model\n' + question(message.content) + '<end_of_turn>\n<eos>' }}"
    + _OTHER_ROLE
    + "{%- endfor -%}"
    + "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}",
}
