"""The words of the miniature world. Order matters: the shipped base was trained on these lists as they stand."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 32, 41),
    "orange": (240, 128, 20),
    "yellow": (240, 208, 32),
    "green": (30, 140, 60),
    "lime": (150, 220, 60),
    "cyan": (40, 190, 200),
    "blue": (36, 76, 200),
    "purple": (122, 48, 160),
    "pink": (244, 132, 180),
    "brown": (124, 76, 40),
    "black": (24, 24, 28),
    "white": (248, 248, 246),
}

# Each figure is a list of primitives in a unit square: ("p", points) polygon, ("e", box) ellipse, ("h", …) the same cut out
# of what was drawn before, ("l", points) a thick line.
Primitive = tuple[str, tuple[float, ...]]
# fmt: off
FIGURES: dict[str, tuple[Primitive, ...]] = {
    "ball": (("e", (0.05, 0.05, 0.95, 0.95)),),
    "box": (("p", (0.05, 0.05, 0.95, 0.05, 0.95, 0.95, 0.05, 0.95)),),
    "kite": (("p", (0.5, 0, 0.9, 0.4, 0.5, 1, 0.1, 0.4)),),
    "tent": (("p", (0.5, 0.05, 1, 0.95, 0, 0.95)), ("hp", (0.5, 0.5, 0.65, 0.95, 0.35, 0.95))),
    "star": (("p", (0.5, 0, 0.62, 0.36, 1, 0.38, 0.7, 0.6, 0.81, 0.97, 0.5, 0.75, 0.19, 0.97, 0.3, 0.6, 0, 0.38, 0.38, 0.36)),),
    "cross": (("p", (0.35, 0, 0.65, 0, 0.65, 0.35, 1, 0.35, 1, 0.65, 0.65, 0.65, 0.65, 1, 0.35, 1, 0.35, 0.65, 0, 0.65, 0, 0.35, 0.35, 0.35)),),
    "heart": (("e", (0, 0.05, 0.55, 0.6)), ("e", (0.45, 0.05, 1, 0.6)), ("p", (0.04, 0.42, 0.96, 0.42, 0.5, 1))),
    "moon": (("e", (0.05, 0.05, 0.95, 0.95)), ("he", (0.35, 0, 1.1, 0.8))),
    "ring": (("e", (0.05, 0.05, 0.95, 0.95)), ("he", (0.3, 0.3, 0.7, 0.7))),
    "arrow": (("p", (0, 0.35, 0.55, 0.35, 0.55, 0.1, 1, 0.5, 0.55, 0.9, 0.55, 0.65, 0, 0.65)),),
    "house": (("p", (0.5, 0, 1, 0.45, 0, 0.45)), ("p", (0.12, 0.45, 0.88, 0.45, 0.88, 1, 0.12, 1)), ("hp", (0.4, 0.65, 0.6, 0.65, 0.6, 1, 0.4, 1))),
    "tree": (("e", (0.1, 0, 0.9, 0.65)), ("p", (0.42, 0.6, 0.58, 0.6, 0.58, 1, 0.42, 1))),
    "pine": (("p", (0.5, 0, 0.9, 0.45, 0.1, 0.45)), ("p", (0.5, 0.25, 1, 0.82, 0, 0.82)), ("p", (0.43, 0.8, 0.57, 0.8, 0.57, 1, 0.43, 1))),
    "flower": (
        ("e", (0.33, 0, 0.67, 0.4)), ("e", (0.33, 0.6, 0.67, 1)), ("e", (0, 0.33, 0.4, 0.67)), ("e", (0.6, 0.33, 1, 0.67)),
        ("he", (0.36, 0.36, 0.64, 0.64)),
    ),
    "fish": (("e", (0.2, 0.2, 1, 0.8)), ("p", (0, 0.15, 0.35, 0.5, 0, 0.85)), ("he", (0.78, 0.36, 0.88, 0.46))),
    "bird": (("e", (0.25, 0.35, 0.8, 0.8)), ("e", (0.65, 0.15, 0.95, 0.45)), ("p", (0.92, 0.22, 1, 0.3, 0.9, 0.36)), ("p", (0.3, 0.5, 0, 0.3, 0.1, 0.7))),
    "cat": (("e", (0.1, 0.25, 0.9, 1)), ("p", (0.12, 0.5, 0.12, 0, 0.45, 0.3)), ("p", (0.88, 0.5, 0.88, 0, 0.55, 0.3)), ("he", (0.28, 0.5, 0.4, 0.64)), ("he", (0.6, 0.5, 0.72, 0.64))),
    "snake": (("l", (0, 0.8, 0.2, 0.3, 0.45, 0.75, 0.7, 0.25, 1, 0.5)),),
    "boat": (("p", (0, 0.6, 1, 0.6, 0.8, 1, 0.2, 1)), ("p", (0.48, 0, 0.48, 0.55, 0.1, 0.55)), ("p", (0.55, 0.15, 0.9, 0.55, 0.55, 0.55))),
    "car": (("p", (0, 0.45, 0.2, 0.45, 0.35, 0.15, 0.75, 0.15, 0.88, 0.45, 1, 0.5, 1, 0.75, 0, 0.75)), ("e", (0.1, 0.6, 0.38, 0.92)), ("e", (0.62, 0.6, 0.9, 0.92))),
    "bus": (("p", (0, 0.1, 1, 0.1, 1, 0.8, 0, 0.8)), ("e", (0.12, 0.65, 0.36, 1)), ("e", (0.64, 0.65, 0.88, 1)), ("hp", (0.1, 0.22, 0.42, 0.22, 0.42, 0.45, 0.1, 0.45)), ("hp", (0.56, 0.22, 0.9, 0.22, 0.9, 0.45, 0.56, 0.45))),
    "plane": (("p", (0, 0.42, 1, 0.5, 0, 0.62)), ("p", (0.3, 0.45, 0.55, 0, 0.7, 0.5)), ("p", (0.3, 0.55, 0.55, 1, 0.7, 0.5))),
    "rocket": (("p", (0.5, 0, 0.72, 0.3, 0.72, 0.75, 0.28, 0.75, 0.28, 0.3)), ("p", (0.28, 0.5, 0.05, 0.9, 0.28, 0.8)), ("p", (0.72, 0.5, 0.95, 0.9, 0.72, 0.8)), ("p", (0.4, 0.78, 0.6, 0.78, 0.5, 1))),
    "cup": (("p", (0.05, 0.15, 0.7, 0.15, 0.62, 0.95, 0.13, 0.95)), ("e", (0.5, 0.25, 1, 0.75)), ("he", (0.65, 0.37, 0.88, 0.63))),
    "bottle": (("p", (0.4, 0, 0.6, 0, 0.6, 0.3, 0.78, 0.45, 0.78, 1, 0.22, 1, 0.22, 0.45, 0.4, 0.3)),),
    "lamp": (("p", (0.3, 0, 0.7, 0, 0.95, 0.5, 0.05, 0.5)), ("p", (0.45, 0.5, 0.55, 0.5, 0.55, 0.9, 0.45, 0.9)), ("p", (0.2, 0.88, 0.8, 0.88, 0.8, 1, 0.2, 1))),
    "chair": (("p", (0.15, 0, 0.3, 0, 0.3, 1, 0.15, 1)), ("p", (0.15, 0.5, 0.85, 0.5, 0.85, 0.62, 0.15, 0.62)), ("p", (0.7, 0.5, 0.85, 0.5, 0.85, 1, 0.7, 1))),
    "table": (("p", (0, 0.25, 1, 0.25, 1, 0.42, 0, 0.42)), ("p", (0.1, 0.4, 0.22, 0.4, 0.22, 0.95, 0.1, 0.95)), ("p", (0.78, 0.4, 0.9, 0.4, 0.9, 0.95, 0.78, 0.95))),
    "ladder": (("l", (0.2, 0, 0.2, 1)), ("l", (0.8, 0, 0.8, 1)), ("l", (0.2, 0.2, 0.8, 0.2)), ("l", (0.2, 0.5, 0.8, 0.5)), ("l", (0.2, 0.8, 0.8, 0.8))),
    "hammer": (("p", (0.1, 0.05, 0.9, 0.05, 0.9, 0.35, 0.1, 0.35)), ("p", (0.42, 0.3, 0.58, 0.3, 0.58, 1, 0.42, 1))),
    "key": (("e", (0, 0.28, 0.45, 0.72)), ("he", (0.13, 0.4, 0.32, 0.6)), ("p", (0.4, 0.43, 1, 0.43, 1, 0.75, 0.88, 0.75, 0.88, 0.57, 0.78, 0.57, 0.78, 0.7, 0.68, 0.7, 0.68, 0.57, 0.4, 0.57))),
    "hat": (("p", (0.25, 0.1, 0.75, 0.1, 0.78, 0.7, 0.22, 0.7)), ("p", (0, 0.68, 1, 0.68, 1, 0.85, 0, 0.85))),
    "shirt": (("p", (0.3, 0.05, 0.7, 0.05, 1, 0.3, 0.85, 0.5, 0.75, 0.42, 0.75, 1, 0.25, 1, 0.25, 0.42, 0.15, 0.5, 0, 0.3)), ("he", (0.38, -0.06, 0.62, 0.16))),
    "crown": (("p", (0, 0.2, 0.25, 0.55, 0.5, 0.1, 0.75, 0.55, 1, 0.2, 0.9, 0.9, 0.1, 0.9)),),
    "flag": (("p", (0.1, 0, 0.2, 0, 0.2, 1, 0.1, 1)), ("p", (0.2, 0.05, 1, 0.28, 0.2, 0.52))),
    "umbrella": (("e", (0, 0.05, 1, 1)), ("hp", (0, 0.52, 1, 0.52, 1, 1.1, 0, 1.1)), ("p", (0.46, 0.5, 0.54, 0.5, 0.54, 1, 0.46, 1))),
    "apple": (("e", (0.05, 0.22, 0.6, 1)), ("e", (0.4, 0.22, 0.95, 1)), ("p", (0.48, 0.28, 0.6, 0, 0.68, 0.04, 0.56, 0.3))),
    "pear": (("e", (0.15, 0.4, 0.85, 1)), ("e", (0.32, 0.1, 0.68, 0.65)), ("p", (0.47, 0.15, 0.53, 0.15, 0.56, 0, 0.5, 0))),
    "leaf": (("p", (0, 1, 0.08, 0.45, 0.45, 0.08, 1, 0, 0.92, 0.55, 0.55, 0.92)), ("hp", (0.1, 0.86, 0.8, 0.16, 0.84, 0.2, 0.14, 0.9))),
    "drop": (("e", (0.15, 0.38, 0.85, 1)), ("p", (0.5, 0, 0.82, 0.58, 0.18, 0.58))),
    "cloud": (("e", (0, 0.4, 0.45, 0.85)), ("e", (0.2, 0.15, 0.7, 0.75)), ("e", (0.5, 0.35, 1, 0.85))),
    "bolt": (("p", (0.55, 0, 0.15, 0.58, 0.45, 0.58, 0.3, 1, 0.85, 0.38, 0.55, 0.38, 0.75, 0)),),
    "clock": (("e", (0.03, 0.03, 0.97, 0.97)), ("he", (0.14, 0.14, 0.86, 0.86)), ("p", (0.46, 0.2, 0.54, 0.2, 0.54, 0.5, 0.78, 0.62, 0.74, 0.7, 0.46, 0.55))),
    "book": (("p", (0, 0.15, 0.48, 0.25, 0.48, 0.95, 0, 0.85)), ("p", (1, 0.15, 0.52, 0.25, 0.52, 0.95, 1, 0.85))),
    "bell": (("e", (0.2, 0.05, 0.8, 0.7)), ("p", (0.2, 0.4, 0.8, 0.4, 1, 0.82, 0, 0.82)), ("e", (0.4, 0.78, 0.6, 1))),
    "gear": (("p", (0.42, 0, 0.58, 0, 0.58, 1, 0.42, 1)), ("p", (0, 0.42, 1, 0.42, 1, 0.58, 0, 0.58)), ("p", (0.1, 0.2, 0.2, 0.1, 0.9, 0.8, 0.8, 0.9)), ("p", (0.8, 0.1, 0.9, 0.2, 0.2, 0.9, 0.1, 0.8)), ("e", (0.18, 0.18, 0.82, 0.82)), ("he", (0.38, 0.38, 0.62, 0.62))),
}
# fmt: on

# What a figure is, for the questions that need knowledge beside sight.
KINDS: dict[str, tuple[str, ...]] = {
    "toy": ("ball", "kite", "box"),
    "shape": ("star", "cross", "heart", "ring", "arrow"),
    "building": ("house", "tent"),
    "plant": ("tree", "pine", "flower", "leaf"),
    "animal": ("fish", "bird", "cat", "snake"),
    "vehicle": ("boat", "car", "bus", "plane", "rocket"),
    "furniture": ("lamp", "chair", "table", "clock"),
    "tool": ("ladder", "hammer", "key", "gear", "bell", "book"),
    "clothing": ("hat", "shirt", "crown", "umbrella", "flag"),
    "food": ("apple", "pear", "cup", "bottle"),
    "weather": ("moon", "drop", "cloud", "bolt"),
}
KIND_OF = {noun: kind for kind, nouns in KINDS.items() for noun in nouns}
NOUNS = tuple(FIGURES)

SHOPS = tuple(
    "hotel bakery cafe bank school museum station garage market studio clinic garden harbor palace castle temple diner pizza sushi "
    "grill salon barber florist tailor cinema arcade gallery library chapel office motel tavern saloon bistro deli butcher dairy "
    "winery pharmacy laundry gym spa pool rink zoo farm mill forge depot airport ferry metro taxi tunnel bridge exit entry police "
    "fire post".split()
)
NAMES = tuple(
    "anna ben carla david emma frank grace henry irene jack karen leo maria nina oscar paula quinn rosa simon tina uma victor wendy "
    "xavier yara zoe alice bruno clara dora erik fiona george hanna ivan julia kevin laura martin nora otto pedro rita sara thomas "
    "ursula vera walter yusuf zelda".split()
)
CITIES = tuple(
    "paris london berlin madrid rome vienna prague oslo dublin lisbon athens cairo delhi tokyo seoul lima quito boston denver dallas "
    "miami austin phoenix toronto havana sydney perth dakar tunis rabat accra lagos kigali nairobi manila hanoi bangkok riga minsk "
    "sofia zagreb geneva milan naples turin lyon ghent malmo turku bergen".split()
)
GOODS = tuple(
    "bread milk rice corn beans sugar salt flour honey butter cheese cream coffee tea cocoa wine beer juice water soap paper wood "
    "steel iron gold silver copper glass wool silk cotton linen leather rubber coal gas oil stone sand clay brick tiles paint ink "
    "seeds nuts figs dates plums grapes".split()
)
KEYS: dict[str, tuple[str, ...] | None] = {  # a value is drawn from these words; None: a number
    "name": NAMES,
    "city": CITIES,
    "item": GOODS,
    "shop": SHOPS,
    "from": CITIES,
    "to": CITIES,
    "guest": NAMES,
    "room": None,
    "price": None,
    "seat": None,
    "age": None,
    "page": None,
}
GROUNDS = ("plain", "striped", "dotted", "shaded", "checked")
SIZES = ("small", "large")
ROWS = ("top", "middle", "bottom")
COLUMNS = ("left", "center", "right")
NUMBERS = tuple(str(n) for n in range(1, 100))
WORDS = SHOPS + NAMES + CITIES + GOODS
CONTENT = tuple(
    dict.fromkeys((*COLOURS, *NOUNS, *WORDS, *KEYS, *GROUNDS, *SIZES, *ROWS, *COLUMNS, *NUMBERS, "sign", "bar", "page", *KINDS))
)

DAYS = tuple("monday tuesday wednesday thursday friday saturday sunday".split())
MONTHS = tuple("january february march april may june july august september october november december".split())
MOODS = tuple("calm quiet cheerful dull bright gentle strange simple lovely old fresh modern humble grand curious plain".split())
