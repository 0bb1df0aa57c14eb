"""A bitmap font of the project's own: 5 x 7 dots a glyph, capitals, digits and a little punctuation."""

from PIL import Image

WIDTH, HEIGHT, PITCH = 5, 7, 6

# One number per row from top to bottom, written in base 32 (0-9, a-v); the highest bit is the left dot.
# fmt: off
_ROWS = {
    "A": "ehhvhhh", "B": "uhhuhhu", "C": "ehggghe", "D": "uhhhhhu", "E": "vgguggv", "F": "vgguggg", "G": "ehgnhhf",
    "H": "hhhvhhh", "I": "e44444e", "J": "72222ic", "K": "hikokih", "L": "ggggggv", "M": "hrllhhh", "N": "hhpljhh", "O": "ehhhhhe",
    "P": "uhhuggg", "Q": "ehhhlid", "R": "uhhukih", "S": "fgge11u", "T": "v444444", "U": "hhhhhhe", "V": "hhhhha4", "W": "hhhllla",
    "X": "hha4ahh", "Y": "hha4444", "Z": "v1248gv", "0": "ehjlphe", "1": "4c4444e", "2": "eh1248v", "3": "v2421he",
    "4": "26aiv22", "5": "vgu11he", "6": "68guhhe", "7": "v124888", "8": "ehhehhe", "9": "ehhf12c", ":": "0440440", "-": "000v000",
    ".": "0000044", "'": "4400000", "$": "4fke5u4", "%": "op248j3", "/": "01248g0", "!": "4444404", "?": "eh12404", " ": "0000000",
}
# fmt: on


def _dots(rows: str) -> list[list[int]]:
    return [[(int(row, 32) >> (WIDTH - 1 - x)) & 1 for x in range(WIDTH)] for row in rows]


def text_mask(text: str) -> Image.Image:
    """The text as a one-line mask, mode L, 255 where there is ink: 6 px a letter wide, 7 px high."""
    mask = Image.new("L", (max(1, PITCH * len(text) - 1), HEIGHT))
    for index, letter in enumerate(text.upper()):
        for y, line in enumerate(_dots(_ROWS[letter])):
            for x, dot in enumerate(line):
                if dot:
                    mask.putpixel((index * PITCH + x, y), 255)
    return mask
