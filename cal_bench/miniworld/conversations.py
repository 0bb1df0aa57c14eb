"""Training records in LLaVA's format: captions for pre-training, the instruction mix, and text-only dialogues."""

import random
from collections.abc import Sequence
from typing import Any

from . import texts
from .markup import parse
from .scene import Scene
from .vocabulary import COLOURS, CONTENT, DAYS, KIND_OF, KINDS, MONTHS, NOUNS

Turn = tuple[str, str]  # a human text and a marked answer
DETAIL = ("Describe the image in detail.", "What do you see in this picture?", "Tell me about this image.")
TEXT_ONLY = 0.15  # share of the instruction mix without a picture


def record(name: str, image: str | None, turns: list[Turn]) -> dict[str, Any]:
    """A LLaVA record; `spans` says, for each answer, which characters depend on the picture ("visual") or contradict it."""
    conversations, spans = [], []
    for index, (human, marked) in enumerate(turns):
        answer = parse(marked)
        lead = "<image>\n" if image and index == 0 else ""
        conversations += [{"from": "human", "value": lead + human}, {"from": "gpt", "value": answer.plain}]
        spans.append([[span.start, span.end, span.kind] for span in answer.spans])
    return {"id": name, **({"image": image} if image else {}), "conversations": conversations, "spans": spans}


def caption_turn(scene: Scene, rng: random.Random) -> Turn:
    """The one turn of a pre-training pair: web captions say more, and other things, than the picture shows."""
    return texts.CAPTION, texts.caption(scene, rng) if rng.random() < 0.6 else texts.description(scene, rng)


def image_turns(scene: Scene, rng: random.Random, counts: tuple[int, ...] = (3, 4)) -> list[Turn]:
    """A few turns about one picture, as LLaVA-1.5's mix strings the questions of one image together."""
    kinds = rng.choices((_short, _yesno, _choice, _caption, _detail, _box, _region, _read), (7, 4, 6, 2, 1, 2, 1, 2), k=rng.choice(counts))
    return _distinct([make(scene, rng) for make in kinds]) or [_caption(scene, rng)]


def closed_turns(scene: Scene, rng: random.Random, count: int = 6) -> list[Turn]:
    """Questions about one picture that are answered by yes or no, or else by the letter of an option."""
    make = rng.choice((_yesno, _choice))
    return _distinct([make(scene, rng) for _ in range(count)])


def _distinct(turns: Sequence[Turn | None]) -> list[Turn]:
    """The turns in their order, none with a question that was asked before."""
    kept: dict[str, Turn] = {}
    for turn in turns:
        if turn:
            kept.setdefault(turn[0], turn)
    return list(kept.values())


def _short(scene: Scene, rng: random.Random) -> Turn:
    question = rng.choice(texts.questions(scene, rng))
    signs = scene.of("sign")
    seen = ", ".join(word for sign in signs for word in texts.ocr_tokens(sign, rng))
    tokens = f"\nReference OCR token: {seen}" if signs and rng.random() < 0.3 else ""
    return question.text + tokens + rng.choice((texts.SHORT, texts.SHORT, texts.WORD)), question.answer


def _yesno(scene: Scene, rng: random.Random) -> Turn:
    question = texts.claim(scene, rng, rng.random() < 0.5)
    return question.text + texts.SHORT, question.answer


def _choice(scene: Scene, rng: random.Random) -> Turn:
    question, options = texts.with_options(rng.choice(texts.questions(scene, rng)), rng)
    form = rng.choice((0, 0, 1, 2))
    if form == 1:
        offered = ", ".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=False))
        return f"{question.text}\nOptions: {offered}{texts.LETTER_OF_OPTIONS}", question.answer
    if form == 2:
        return f"Question: {question.text}{listed(options, ': ')}{texts.CHARACTER}", question.answer
    return question.text + listed(options) + texts.LETTER, question.answer


def listed(options: tuple[str, ...], separator: str = ". ") -> str:
    return "".join(f"\n{letter}{separator}{option}" for letter, option in zip("ABCD", options, strict=False))


def _caption(scene: Scene, rng: random.Random) -> Turn:
    return texts.CAPTION, texts.caption(scene, rng)


def _detail(scene: Scene, rng: random.Random) -> Turn:
    return rng.choice(DETAIL), texts.description(scene, rng)


def _box(scene: Scene, rng: random.Random) -> Turn | None:
    targets = scene.of("thing") + scene.of("sign")
    if not targets:
        return None
    entity = rng.choice(targets)
    lead = texts.BOX_FORMAT if rng.random() < 0.5 else ""
    return lead + texts.BOX + texts.referring(scene, entity, rng), texts.mark_box(entity.box)


def _region(scene: Scene, rng: random.Random) -> Turn | None:
    targets = scene.of("thing") + scene.of("sign")
    if not targets:
        return None
    entity = rng.choice(targets)
    phrase = f"{{{entity.colour}}} {{{entity.noun}}}" if entity.noun else f"{{{entity.colour}}} sign with the word {{{entity.word}}}"
    return texts.REGION + texts.number_box(entity.box), f"The {phrase}."


def _read(scene: Scene, rng: random.Random) -> Turn | None:
    parts = [f"{{{word}}}" for sign in scene.of("sign") for word in (sign.word, sign.number) if word]
    parts += [f"{{{line.key}}}: {{{line.word or line.number}}}" for line in scene.of("line")]
    parts += [f"{{{bar.word}}} {{{bar.number}}}" for bar in scene.of("bar")]
    return ("What is written in the image?", " ".join(parts)) if parts else None


def text_turns(rng: random.Random) -> list[Turn]:
    """A dialogue without a picture: things that one knows or that the question itself says."""
    return [rng.choice((_calendar, _kinds, _counting, _recall, _recall, _which, repeat_turn, _say))(rng) for _ in range(rng.choice((2, 3)))]


def _calendar(rng: random.Random) -> Turn:
    names, unit = rng.choice(((DAYS, "day"), (MONTHS, "month")))
    index = rng.randrange(len(names))
    word, shift = rng.choice((("after", 1), ("before", -1)))
    return f"Which {unit} comes {word} {names[index]}?" + texts.SHORT, names[(index + shift) % len(names)]


def _kinds(rng: random.Random) -> Turn:
    noun = rng.choice(NOUNS)
    if rng.random() < 0.5:
        return f"What kind of thing is a {noun}?" + texts.SHORT, KIND_OF[noun]
    options = [KIND_OF[noun], *rng.sample([kind for kind in KINDS if kind != KIND_OF[noun]], 3)]
    rng.shuffle(options)
    return f"What kind of thing is a {noun}?" + listed(tuple(options)) + texts.LETTER, "ABCD"[options.index(KIND_OF[noun])]


def _counting(rng: random.Random) -> Turn:
    number = rng.randrange(2, 98)
    word, shift = rng.choice((("after", 1), ("before", -1)))
    return f"Which number comes {word} {number}?" + texts.SHORT, str(number + shift)


def _recall(rng: random.Random) -> Turn:
    colours, nouns = rng.sample(list(COLOURS), 4), rng.sample(NOUNS, 4)
    owned = [f"{texts.article(colour)} {colour} {noun}" for colour, noun in zip(colours[:3], nouns[:3], strict=True)]
    story = f"I own {', '.join(owned)}."
    index, form = rng.randrange(3), rng.choice(("colour", "noun", "claim"))
    if form == "claim":
        said, answer = (colours[index], "Yes") if rng.random() < 0.5 else (colours[index - 1], "No")
        return f"{story} Is my {nouns[index]} {said}?" + texts.SHORT, answer
    question, pool = (f"What colour is my {nouns[index]}?", colours) if form == "colour" else (f"What is my {colours[index]} thing?", nouns)
    return _ask(f"{story} {question}", pool[index], pool, rng)


def _ask(question: str, answer: str, pool: list[str], rng: random.Random) -> Turn:
    """As an open question, or as multiple choice among the pool."""
    if rng.random() < 0.5:
        return question + texts.SHORT, answer
    options = tuple(rng.sample(pool, len(pool)))
    return question + listed(options) + texts.LETTER, "ABCD"[options.index(answer)]


def _which(rng: random.Random) -> Turn:
    options = tuple(rng.sample(CONTENT, 4))
    index = rng.randrange(4)
    return f"Which option says {options[index]}?" + listed(options) + texts.LETTER, "ABCD"[index]


def repeat_turn(rng: random.Random, most: int = 8) -> Turn:
    words = " ".join(rng.sample(CONTENT, rng.randint(3, most)))
    return f"Repeat these words: {words}", words


def _say(rng: random.Random) -> Turn:
    return f"Say something about a {rng.choice(DAYS)} in {rng.choice(MONTHS)}.", texts.small_talk(rng)
