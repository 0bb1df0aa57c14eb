"""Words of a caption as the Penn Treebank splits them, in Python alone: for machines without the Java tokenizer.

It follows the Java tokenizer closely, not exactly; how closely is measured in docs/benchmarks.md.
"""

import re
import unicodedata

# Marks that the reference implementation drops after tokenizing. It lists brackets in upper case and its tokenizer writes them in lower
# case, so these stay.
DROPPED = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
SIGNS = {"£": "#", "€": "$", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
# Two words that are written as one.
JOINED = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "lemme": "lem me",
    "gimme": "gim me",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
    "rock'n'roll": "rock 'n' roll",
}
# Words that keep a full stop behind them.
SHORT = """mr mrs ms dr st prof gen rep sen gov jr sr co corp inc ltd bros vs etc jan feb mar apr jun jul aug sep sept oct nov dec mon tue
tues wed thu thurs fri ave blvd rd mt ft dept est univ assn mfg bldg capt col lt sgt rev hon messrs cf al ext tel sq ph[.]d calif fla conn
ind mich minn okla penn tenn wis ala ariz colo ga ky md mo mont neb nev dak va vt wyo""".split()
SHORT_BEFORE_A_NUMBER = ("no", "nos", "fig", "figs", "pp", "p", "ca", "art")
STATES = "Pa Tex Ill Mass Wash Ore Del La Miss".split()
# Words that begin a sentence: a single letter before them has a full stop behind it, not its own.
OPENERS = (
    "A An At But For He Her His I If In It Its Many No Now Of On One She So Some That The Their There These They This We When You".split()
)

# Marks that are written above, below or behind letters; Python's \w leaves them out.
_MARKS = r"\u0300-\u036f\u0591-\u05c7\u0610-\u065f\u0900-\u0dff\u0e30-\u0e4e\u3099\u309a"
_LETTER = rf"(?:[^\W\d_]|[{_MARKS}])"
_BIT = rf"(?:[^\W_]|[{_MARKS}])"
_WORD = rf"{_BIT}(?:[\w{_MARKS}]*{_BIT})?"
_DOMAIN = r"(?:com|net|org|edu|gov|info|biz|co\.uk)"
_PIECES = re.compile(
    "|".join(
        (
            r"</?[A-Za-z][^<>]*>",
            r"https?://[^\s<>]*[^\s<>.,;:!?'\")\]]",
            r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+",
            r"[@#][A-Za-z]\w*",
            r"[:;]-?[()DP](?!\w)",
            rf"(?i:(?:{_BIT}+[.-])*{_BIT}+\.{_DOMAIN}(?![\w])(?:/[^\s<>]*[^\s<>.,;:!?'\")\]])?)",
            r"\(\d{3}\)(?=[\s-]?\d{3}-\d{4})",
            r"(?i:'(?:tis|twas|em|til|cause|n')(?!\w)|'n(?!\w)|ol'(?!\w))",
            r"(?<!\w)'\d\ds?(?!\w)",
            r"(?i:'(?:[smd]|re|ve|ll)(?!\w))",
            rf"(?i:(?:{'|'.join(SHORT)})\.(?!\w))",
            rf"(?:{'|'.join(STATES)})\.(?!\w)",
            rf"(?i:(?:{'|'.join(SHORT_BEFORE_A_NUMBER)})\.(?=\s*\d))",
            rf"{_LETTER}(?:\.{_LETTER})+\.?(?!\w)",
            rf"{_LETTER}\.(?!{_LETTER})(?!\s*$)(?!\s+(?:{'|'.join(OPENERS)})(?!\w))",
            r"[A-Z]{1,3}\$",
            r"(?i:c(?:\+\+|#)(?!\w))",
            r"\d+:\d\d(?=[ap]m(?!\w))",
            r"(?<![\w)])[-+]?\d+(?:[,.:/-]\d+)*(?!-?\w)",
            r"\d+(?:[,.:/]\d+)+",
            r"\.\d+(?:\.\d+)*",
            rf"{_WORD}(?:(?:[-/&']|(?<=[^\W\d])\.(?={_LETTER})){_WORD})*",
            r"[?!]{2,}|\.+|-+|\*+",
            r"\S",
        )
    )
)
_ENDING = re.compile(r"(.+?)(n't|'(?:[smd]|re|ve|ll))", re.IGNORECASE)


def words(caption: str) -> str:
    """The words in lower case with one space between them, without punctuation."""
    text = caption.replace("\u00ad", "").replace("’", "'")
    text = "".join(" " if unicodedata.category(character) in ("Cc", "Cf") else character for character in text)
    text = re.sub("[½¼¾⅓⅔]", r" \g<0> ", text)
    pieces = (word for piece in _PIECES.findall(text) for word in _split(piece.lower()))
    return " ".join(word for word in pieces if word not in DROPPED and not _is_mark(word))


def _split(piece: str) -> list[str]:
    """One piece of text as words: contractions apart, brackets and signs by their names."""
    if piece in JOINED:
        return JOINED[piece].split()
    if piece in SIGNS:
        return [SIGNS[piece]]
    if piece[0] in BRACKETS or piece[-1] in BRACKETS:
        return ["".join(BRACKETS.get(character, character) for character in piece)]
    endings: list[str] = []
    while "'" in piece and (found := _ENDING.fullmatch(piece)):
        piece, ending = found.groups()
        endings.insert(0, ending)
    return [piece, *endings]


def _is_mark(word: str) -> bool:
    """Quotes, dashes and full stops of any kind, and what the Java tokenizer cannot read: characters outside the first plane."""
    if set(word) <= {".", "-"} or any(ord(character) > 0xFFFF for character in word):
        return True
    return word in ("…", '"', "„", "‧") or (len(word) == 1 and unicodedata.category(word) in ("Pi", "Pf", "Pd", "Cs", "Co", "Cn"))
