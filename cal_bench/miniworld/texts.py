"""What can be said and asked about a scene: captions, questions with their answers, boxes. Marked as in markup.py."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from .scene import SIDE, Box, Entity, Scene
from .vocabulary import COLOURS, COLUMNS, DAYS, KEYS, KIND_OF, KINDS, MONTHS, MOODS, NOUNS, NUMBERS, ROWS, SHOPS, SIZES

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
# The forms that lmms-eval's tasks use beside LLaVA's own; a model this small must have met them.
WORD = "\nAnswer the question with a single word."
LETTER_OF_OPTIONS = LETTER[:-1]
CHARACTER = "\nAnswer the question using a single character from the given options."
CAPTION = "Provide a one-sentence caption for the provided image."
BOX = "Please provide the bounding box coordinate of the region this sentence describes: "
BOX_FORMAT = (
    "Bounding box coordinates are specified in the format (top-left x, top-left y, bottom-right x, bottom-right y). "
    "All values are floating point numbers bounded between 0 and 1. "
)
REGION = "Please provide a short description for this region: "


@dataclass(frozen=True)
class Question:
    """A question without prompt suffix, its marked answer, and wrong answers of the same sort."""

    topic: str
    text: str
    answer: str
    others: tuple[str, ...] = ()


def _pick(rng: random.Random, pool: Sequence[str], truth: str, count: int = 3) -> tuple[str, ...]:
    return tuple(rng.sample([word for word in pool if word != truth], count))


def _without(words: Sequence[str], truth: str) -> tuple[str, ...]:
    return tuple(word for word in words if word != truth)


def _place(entity: Entity) -> str:
    return f"{{{entity.row}}} {{{entity.column}}}"


def _plain_place(entity: Entity) -> str:
    return f"{entity.row} {entity.column}"


def number_box(box: Box) -> str:
    """A box as LLaVA writes it: parts of the (square) picture, two decimals."""
    return "[" + ", ".join(f"{min(1.0, max(0.0, value / SIDE)):.2f}" for value in box) + "]"


def mark_box(box: Box) -> str:
    return "[" + ", ".join(f"{{{value}}}" for value in number_box(box)[1:-1].split(", ")) + "]"


def _about_things(scene: Scene, rng: random.Random) -> list[Question]:
    things = scene.of("thing")
    questions = []
    places = tuple(f"{row} {column}" for row in ROWS for column in COLUMNS)
    for thing in things:
        noun, colour, place = thing.noun, thing.colour, _plain_place(thing)
        questions += [
            Question("colour", f"What colour is the {noun}?", f"{{{colour}}}", _pick(rng, list(COLOURS), colour)),
            Question("thing", f"What is the {colour} thing?", f"{{{noun}}}", _pick(rng, NOUNS, noun)),
            Question("place", f"Where is the {noun}?", _place(thing), _pick(rng, places, place)),
            Question("size", f"Is the {noun} small or large?", f"{{{thing.size}}}", _pick(rng, SIZES, thing.size, 1)),
            Question("kind", f"What kind of thing is the {colour} one?", f"{{{KIND_OF[noun]}}}", _pick(rng, list(KINDS), KIND_OF[noun])),
        ]
        if sum(_plain_place(other) == place for other in scene.of("thing") + scene.of("sign")) == 1:
            questions.append(Question("at", f"What is at the {place}?", f"{{{noun}}}", _pick(rng, NOUNS, noun)))
    count = str(len(things))
    questions.append(Question("count", "How many things are in the picture?", f"{{{count}}}", _pick(rng, "12345", count)))
    return questions


def _about_sign(scene: Scene, rng: random.Random) -> list[Question]:
    questions = []
    for sign in scene.of("sign"):
        questions += [
            Question("word", "What word is on the sign?", f"{{{sign.word}}}", _pick(rng, SHOPS, sign.word)),
            Question("word", f"What does the {sign.colour} sign say?", f"{{{sign.word}}}", _pick(rng, SHOPS, sign.word)),
            Question("sign colour", "What colour is the sign?", f"{{{sign.colour}}}", _pick(rng, list(COLOURS), sign.colour)),
        ]
        if sign.number:
            others = _pick(rng, NUMBERS, sign.number)
            questions.append(Question("sign number", "What number is on the sign?", f"{{{sign.number}}}", others))
    return questions


def _about_page(scene: Scene, rng: random.Random) -> list[Question]:
    questions = []
    for line in scene.of("line"):
        value = line.word or line.number
        others = _pick(rng, KEYS[line.key] or NUMBERS, value)
        questions += [
            Question("value", f"What is the {line.key}?", f"{{{value}}}", others),
            Question("value", f"What is written next to {line.key}?", f"{{{value}}}", others),
            Question(
                "key",
                f"What is {value} on the page?",
                f"{{{line.key}}}",
                _pick(rng, ["name", "city", "item", "shop", "room", "price"], line.key),
            ),
        ]
    return questions


def _about_chart(scene: Scene, rng: random.Random) -> list[Question]:
    bars = scene.of("bar")
    if not bars:
        return []
    labels = [bar.word for bar in bars]
    ranked = sorted(bars, key=lambda bar: int(bar.number))
    count = str(len(bars))
    questions = [
        Question("highest", "Which item has the highest value?", f"{{{ranked[-1].word}}}", _without(labels, ranked[-1].word)),
        Question("lowest", "Which item has the lowest value?", f"{{{ranked[0].word}}}", _without(labels, ranked[0].word)),
        Question("most", "What is the highest value?", f"{{{ranked[-1].number}}}", _pick(rng, NUMBERS, ranked[-1].number)),
        Question("bars", "How many bars are in the chart?", f"{{{count}}}", _pick(rng, "2345", count)),
    ]
    for bar in bars:
        questions += [
            Question("bar value", f"What is the value of {bar.word}?", f"{{{bar.number}}}", _pick(rng, NUMBERS, bar.number)),
            Question("bar label", f"Which item has the value {bar.number}?", f"{{{bar.word}}}", _without(labels, bar.word)),
            Question("bar colour", f"What colour is the bar of {bar.word}?", f"{{{bar.colour}}}", _pick(rng, list(COLOURS), bar.colour)),
        ]
    return questions


def questions(scene: Scene, rng: random.Random) -> list[Question]:
    """All open questions that this scene answers, in no order that matters."""
    found = _about_things(scene, rng) + _about_sign(scene, rng) + _about_page(scene, rng) + _about_chart(scene, rng)
    return [question for question in found if scene.of("thing") or question.topic != "count"]


def claim(scene: Scene, rng: random.Random, truth: bool, topic: str = "") -> Question:
    """A yes/no question of the given topic (any, if empty) whose answer is `truth`."""
    makers = {name: maker for name, maker in _CLAIMS.items() if name in (topic or name) and scene.of(maker[0])}
    name = rng.choice(sorted(makers))
    kind, make = makers[name]
    text = make(scene, rng.choice(scene.of(kind)), rng, truth)
    return Question(name, text, "{Yes}" if truth else "{No}", ("No" if truth else "Yes",))


def _existence(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    seen = {thing.noun for thing in scene.of("thing")}
    noun = entity.noun if truth else rng.choice([noun for noun in NOUNS if noun not in seen])
    return f"Is there a {noun} in the image?"


def _colour(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    return f"Is the {entity.noun} {entity.colour if truth else _pick(rng, list(COLOURS), entity.colour, 1)[0]}?"


def _position(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    axis, place = rng.choice(((ROWS, entity.row), (COLUMNS, entity.column)))
    return f"Is the {entity.noun} at the {place if truth else _pick(rng, axis, place, 1)[0]}?"


def _count(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    count = str(len(scene.of("thing")))
    return f"Are there {count if truth else _pick(rng, '1234', count, 1)[0]} things in the image?"


def _text(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    return f"Does the sign say {entity.word if truth else _pick(rng, SHOPS, entity.word, 1)[0]}?"


def _line_value(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    value = entity.word or entity.number
    return f"Is the {entity.key} {value if truth else _pick(rng, KEYS[entity.key] or NUMBERS, value, 1)[0]}?"


def _bar_value(scene: Scene, entity: Entity, rng: random.Random, truth: bool) -> str:
    number = entity.number if truth else _pick(rng, NUMBERS, entity.number, 1)[0]
    return f"Is the value of {entity.word} {number}?"


Claim = Callable[[Scene, Entity, random.Random, bool], str]
_CLAIMS: dict[str, tuple[str, Claim]] = {
    "existence": ("thing", _existence),
    "color": ("thing", _colour),
    "position": ("thing", _position),
    "count": ("thing", _count),
    "OCR": ("sign", _text),
    "line": ("line", _line_value),
    "bar": ("bar", _bar_value),
}


def article(word: str) -> str:
    return "an" if word == "orange" else "a"


def phrase(entity: Entity, rng: random.Random) -> str:
    """A marked noun phrase for one thing or sign."""
    if entity.kind == "sign":
        number = f" and the number {{{entity.number}}}" if entity.number and rng.random() < 0.7 else ""
        return f"{article(entity.colour)} {{{entity.colour}}} sign with the word {{{entity.word}}}{number}"
    size = f"{{{entity.size}}} " if rng.random() < 0.4 else ""
    lead = article("" if size else entity.colour)
    place = f" at the {_place(entity)}" if rng.random() < 0.4 else ""
    return f"{lead} {size}{{{entity.colour}}} {{{entity.noun}}}{place}"


def caption(scene: Scene, rng: random.Random) -> str:
    """One marked sentence, as the reference captions of the benchmarks are written."""
    if scene.layout == "page":
        lines = " and ".join(f"{{{line.key}}} {{{line.word or line.number}}}" for line in scene.entities[:2])
        return f"A page with the {lines}."
    if scene.layout == "chart":
        bars = " and ".join(f"{{{bar.word}}} at {{{bar.number}}}" for bar in scene.entities)
        return f"A bar chart with {bars}."
    phrases = [phrase(entity, rng) for entity in scene.entities]
    listed = phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]
    listed = listed[0].upper() + listed[1:]
    ground = f" on a {{{scene.ground}}} wall" if rng.random() < 0.3 else ""
    return f"{listed}{ground}."


_OPENINGS = (
    "This {mood} picture was taken on a {day} in {month}.",
    "I found this {mood} image in an old album last {month}.",
    "Here is something {mood} to look at on a {day}.",
    "The {mood} scene could be from any {day} in {month}.",
    "My friend sent me this {mood} picture one {day}.",
    "It looks like a {mood} morning in {month}.",
)
_CLOSINGS = (
    "It makes me think of a {mood} {day}.",
    "Nobody knows who made it, but it feels {mood}.",
    "The mood is {mood}, as on most days in {month}.",
    "It would look {mood} on a wall at home.",
    "I would call it {mood} and leave it at that.",
    "Perhaps we can see more of it next {day}.",
)


def _filler(lines: tuple[str, ...], rng: random.Random) -> str:
    return rng.choice(lines).format(mood=rng.choice(MOODS), day=rng.choice(DAYS), month=rng.choice(MONTHS))


def small_talk(rng: random.Random) -> str:
    """Two sentences that say nothing about any picture."""
    return _filler(_OPENINGS, rng) + " " + _filler(_CLOSINGS, rng)


def invented(scene: Scene, rng: random.Random) -> str:
    """A phrase for something that is not in the picture."""
    noun = rng.choice([noun for noun in NOUNS if noun not in {thing.noun for thing in scene.of("thing")}])
    colour = rng.choice(list(COLOURS))
    return f"There is also {article(colour)} <{colour}> <{noun}> nearby."


def description(scene: Scene, rng: random.Random, invent: float = 0.3) -> str:
    """A few sentences: the caption between words that the picture does not decide, and at times an invented thing."""
    parts = [_filler(_OPENINGS, rng), caption(scene, rng)]
    if rng.random() < invent:
        parts.append(invented(scene, rng))
    if rng.random() < 0.6:
        parts.append(_filler(_CLOSINGS, rng))
    return " ".join(parts)


def referring(scene: Scene, entity: Entity, rng: random.Random) -> str:
    """An expression that only this entity of the scene fits."""
    if entity.kind == "sign":
        return rng.choice((f"the {entity.colour} sign", f"the sign with the word {entity.word}", "the sign"))
    return rng.choice((f"the {entity.colour} {entity.noun}", f"the {entity.noun}", f"the {entity.noun} at the {_plain_place(entity)}"))


def ocr_tokens(sign: Entity, rng: random.Random) -> list[str]:
    """What a text recogniser finds on a sign: each word with a chance of two in three."""
    return [word for word in (sign.word, sign.number) if word and rng.random() < 2 / 3]


def with_options(question: Question, rng: random.Random) -> tuple[Question, tuple[str, ...]]:
    """The question as multiple choice: the answer becomes a letter; the options come with it, in order."""
    truth = question.answer.replace("{", "").replace("}", "")
    options = [truth, *question.others]
    rng.shuffle(options)
    return replace(question, answer="{" + "ABCD"[options.index(truth)] + "}"), tuple(options)
