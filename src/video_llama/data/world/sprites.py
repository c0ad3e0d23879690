"""The drawing of each thing, once, as a picture with a transparent ground.

Every drawing is made of plain shapes on a square of 100 x 100 units, x to the right and y down.
Most of it is in the body colour; details are neutral (grey, white, black), so that the named colour
is never in doubt.
"""

import math
from collections.abc import Callable
from functools import lru_cache

from PIL import Image, ImageFilter

from video_llama.data.world.pen import Pen, mix
from video_llama.data.world.things import COLOURS

SUPERSAMPLE = 3  # drawn this much larger, then reduced: smooth edges


def _dog(p: Pen) -> None:
    p.stroke([(14, 48), (4, 26)], 8)  # tail up
    for x in (16, 27, 55, 66):
        p.box(x, 62, x + 9, 97, round_by=3, fill=p.body)
    p.box(9, 42, 77, 74, round_by=14)
    p.shape([(56, 44), (62, 22), (84, 22), (80, 62), (62, 68)])
    p.oval(74, 26, 18, 17)
    p.box(76, 24, 99, 42, round_by=7)  # snout
    p.oval(96, 27, 4.5, 4.5, fill=p.line)
    p.oval(62, 31, 8, 18, fill=p.shade)  # hanging ear
    p.oval(79, 20, 3.6, fill=p.line)


def _cat(p: Pen) -> None:
    p.stroke([(70, 90), (88, 88), (94, 72), (88, 56)], 8)  # tail
    p.oval(50, 74, 27, 25)
    p.shape([(22, 36), (22, 1), (46, 20)])
    p.shape([(78, 36), (78, 1), (54, 20)])
    p.shape([(27, 22), (26, 9), (36, 17)], fill=p.shade)
    p.shape([(73, 22), (74, 9), (64, 17)], fill=p.shade)
    p.oval(50, 37, 30, 25)
    for side in (-1, 1):
        p.oval(50 + side * 12, 33, 6, 7, fill=p.light)
        p.oval(50 + side * 12, 33, 2.4, 6.5, fill=(20, 20, 22))
        for tilt in (-4, 2, 8):
            p.stroke([(50 + side * 12, 46), (50 + side * 38, 43 + tilt)], 1.8, fill=p.line)
        p.oval(50 + side * 11, 95, 9, 5)
    p.shape([(45, 43), (55, 43), (50, 49)], fill=p.line)
    p.stroke([(50, 74), (50, 96)], 2, fill=p.shade)


def _bird(p: Pen) -> None:
    for x in (46, 56):
        p.stroke([(x, 78), (x, 97), (x + 8, 97)], 3, fill=p.dark)
    p.shape([(30, 56), (0, 34), (4, 62), (16, 66)])  # tail
    p.oval(48, 58, 30, 23)
    p.oval(73, 31, 18, 17)
    p.shape([(56, 40), (88, 40), (74, 62)])
    p.shape([(88, 24), (100, 32), (88, 38)], fill=(150, 150, 154))  # beak
    p.shape([(58, 48), (20, 44), (34, 72), (50, 68)], fill=p.shade)  # wing
    p.oval(78, 27, 4, fill=p.light)
    p.oval(79, 27, 2.4, fill=(20, 20, 22))


def _car(p: Pen) -> None:
    p.shape([(18, 52), (32, 24), (68, 24), (86, 52)])
    p.box(1, 46, 99, 74, round_by=9)
    p.shape([(28, 47), (37, 30), (48, 30), (48, 47)], fill=p.pale)
    p.shape([(53, 47), (53, 30), (65, 30), (76, 47)], fill=p.pale)
    for x in (24, 76):
        p.oval(x, 74, 14, fill=(40, 40, 44))
        p.oval(x, 74, 6.5, fill=(200, 200, 204))
    p.oval(95, 55, 4, 4, fill=p.light)


def _train(p: Pen) -> None:
    p.box(58, 12, 96, 74)  # cabin
    p.box(53, 6, 100, 15, fill=p.dark)
    p.box(66, 24, 88, 44, fill=p.pale)
    p.box(10, 36, 62, 74, round_by=6)  # boiler
    p.shape([(16, 38), (18, 20), (12, 8), (34, 8), (28, 20), (30, 38)], fill=p.dark)
    p.oval(45, 36, 8, 8, fill=p.shade)
    p.shape([(10, 68), (0, 88), (14, 88)], fill=p.dark)
    p.box(8, 70, 96, 78, fill=p.dark)
    for x, r in ((24, 10), (47, 10), (78, 15)):
        p.oval(x, 97 - r, r, fill=(40, 40, 44))
        p.oval(x, 97 - r, r * 0.5, fill=(200, 200, 204))
    p.stroke([(26, 54), (26, 54)], 9, fill=p.pale)


def _bell(p: Pen) -> None:
    p.oval(50, 9, 8, 8, fill=p.dark)
    p.oval(50, 89, 10, 9, fill=p.dark)  # clapper
    p.oval(50, 40, 29, 31)
    p.shape([(21, 40), (79, 40), (84, 68), (97, 82), (3, 82), (16, 68)])
    p.box(3, 76, 97, 85, round_by=4, fill=p.shade)
    p.stroke([(35, 30), (31, 62)], 5, fill=mix(p.body, (255, 255, 255), 0.55))


def _drum(p: Pen) -> None:
    p.stroke([(8, 2), (52, 34)], 5, fill=p.dark)
    p.stroke([(92, 2), (56, 34)], 5, fill=p.dark)
    p.oval(50, 82, 44, 15)
    p.box(6, 40, 94, 82)
    lace = [
        (6 + 88 * i / 6, 82 + 12 * math.sin(math.pi * i / 6) if i % 2 else 50) for i in range(7)
    ]
    p.stroke(lace, 3, fill=p.line)
    p.oval(50, 41, 45, 16, fill=p.dark)
    p.oval(50, 39, 42, 13, fill=p.light)
    p.oval(8, 4, 5, fill=p.dark)
    p.oval(92, 4, 5, fill=p.dark)


def _clock(p: Pen) -> None:
    p.stroke([(24, 84), (14, 97)], 8)
    p.stroke([(76, 84), (86, 97)], 8)
    p.oval(50, 48, 47)
    p.oval(50, 48, 32, fill=(244, 244, 242))
    for hour in range(12):
        angle = math.pi * hour / 6
        x, y = math.sin(angle), math.cos(angle)
        p.stroke([(50 + 26 * x, 48 + 26 * y), (50 + 29 * x, 48 + 29 * y)], 3, fill=(40, 40, 44))
    p.stroke([(50, 48), (50, 26)], 4.5, fill=(30, 30, 34))
    p.stroke([(50, 48), (65, 57)], 4.5, fill=(30, 30, 34))


def _bee(p: Pen) -> None:
    p.oval(41, 26, 11, 22, fill=p.pale)
    p.oval(61, 26, 11, 22, fill=p.pale)
    p.shape([(12, 52), (0, 60), (12, 68)], fill=p.dark)  # sting
    p.oval(45, 60, 38, 24)
    stripe = p.dark if p.dark[0] < 60 else (180, 180, 184)
    for x in (24, 43, 62):
        half = 24 * math.sqrt(1 - ((x - 45) / 38) ** 2) - 1
        p.box(x - 4, 60 - half, x + 4, 60 + half, fill=stripe)
    p.oval(82, 56, 17)
    p.stroke([(84, 42), (90, 26)], 2.6, fill=p.line)
    p.stroke([(90, 44), (99, 31)], 2.6, fill=p.line)
    p.oval(88, 53, 3.8, fill=p.line)


def _phone(p: Pen) -> None:
    p.shape([(28, 38), (72, 38), (94, 86), (94, 94), (6, 94), (6, 86)])
    p.oval(50, 66, 19, fill=p.light)
    for hour in range(8):
        angle = math.pi * hour / 4
        p.oval(50 + 12.5 * math.sin(angle), 66 + 12.5 * math.cos(angle), 3.4, fill=(40, 40, 44))
    p.oval(50, 66, 4.5, fill=p.body)
    p.box(30, 26, 38, 42, fill=p.dark)
    p.box(62, 26, 70, 42, fill=p.dark)
    p.box(6, 10, 94, 26, round_by=8, fill=p.body)  # handset
    p.box(0, 12, 24, 42, round_by=8, fill=p.shade)
    p.box(76, 12, 100, 42, round_by=8, fill=p.shade)


def _frog(p: Pen) -> None:
    for side in (-1, 1):
        p.oval(50 + side * 34, 76, 16, 20)
        p.oval(50 + side * 36, 94, 14, 5, fill=p.shade)
        p.oval(50 + side * 22, 24, 14, 15)
    p.oval(50, 66, 34, 30)
    p.oval(50, 46, 38, 23)
    for side in (-1, 1):
        p.oval(50 + side * 22, 22, 9.5, fill=(246, 246, 246))
        p.oval(50 + side * 22, 22, 4.6, fill=(20, 20, 22))
        p.stroke([(50 + side * 13, 74), (50 + side * 13, 96)], 7, fill=p.shade)
    p.arc(50, 40, 30, 17, 20, 160, 3.4, p.line)


def _trumpet(p: Pen) -> None:
    p.shape([(58, 40), (78, 34), (97, 6), (97, 90), (78, 60), (58, 54)])  # flare
    p.box(4, 40, 70, 54, round_by=4)
    p.box(0, 34, 8, 60, round_by=3, fill=p.dark)
    p.box(16, 70, 66, 82, round_by=5)
    p.box(16, 44, 27, 82, round_by=5)
    p.box(56, 44, 67, 82, round_by=5)
    for x in (32, 43, 54):
        p.box(x - 4.5, 28, x + 4.5, 88, round_by=3, fill=p.shade)
        p.box(x - 1.8, 16, x + 1.8, 30, fill=p.dark)
        p.oval(x, 15, 4.5, 3.5, fill=p.dark)
    p.oval(96, 48, 5, 43, fill=p.shade)


def _ball(p: Pen) -> None:
    p.oval(50, 50, 47)
    p.stroke([(5, 50), (95, 50)], 4.5, fill=p.light)
    p.stroke([(50, 5), (50, 95)], 4.5, fill=p.light)
    for side in (-1, 1):
        seam = [(side * (17 + 0.012 * y * y), y) for y in range(-46, 47, 4)]
        p.stroke([(50 + x, 50 + y) for x, y in seam if math.hypot(x, y) < 44], 4.5, fill=p.light)


def _star(p: Pen) -> None:
    p.shape(
        [
            (50 + r * math.sin(math.pi * i / 5), 53 - r * math.cos(math.pi * i / 5))
            for i, r in enumerate((51, 22) * 5)
        ]
    )


def _box(p: Pen) -> None:
    p.shape([(3, 26), (66, 26), (97, 8), (34, 8)], fill=mix(p.body, (255, 255, 255), 0.3))  # lid
    p.shape([(66, 26), (97, 8), (97, 76), (66, 95)], fill=p.shade)
    p.box(3, 26, 66, 95)
    tape = p.light
    p.box(29, 26, 40, 95, fill=tape)
    p.shape([(29, 26), (40, 26), (71, 8), (60, 8)], fill=tape)


def _kite(p: Pen) -> None:
    p.stroke([(60, 68), (50, 74), (46, 84), (30, 82), (22, 97)], 3, fill=p.dark)
    for x, y in ((46, 80), (27, 87)):
        p.shape([(x - 11, y - 7), (x, y), (x - 11, y + 7)], fill=p.dark)
        p.shape([(x + 11, y - 7), (x, y), (x + 11, y + 7)], fill=p.dark)
    p.shape([(56, 0), (98, 28), (60, 72), (14, 30)])
    p.shape([(56, 0), (98, 28), (57, 29)], fill=p.shade)
    p.shape([(60, 72), (14, 30), (57, 29)], fill=p.shade)
    p.stroke([(56, 1), (60, 71)], 3, fill=p.line)
    p.stroke([(15, 30), (97, 28)], 3, fill=p.line)


def _tree(p: Pen) -> None:
    p.box(43, 58, 57, 98, fill=(112, 104, 98))
    p.oval(29, 50, 25, 22)
    p.oval(71, 50, 25, 22)
    p.oval(50, 27, 29, 26)
    p.oval(50, 52, 26, 20)
    for x, y in ((34, 30), (60, 22), (26, 54), (70, 50), (49, 46)):
        p.arc(x, y, 8, 7, 20, 160, 2.6, p.shade)


def _house(p: Pen) -> None:
    p.box(68, 8, 80, 34, fill=p.dark)
    p.box(12, 42, 88, 97)
    p.shape([(0, 48), (50, 5), (100, 48)], fill=p.shade)
    p.box(20, 58, 42, 78, fill=p.pale)
    p.stroke([(31, 59), (31, 77)], 2.4, fill=p.dark)
    p.stroke([(21, 68), (41, 68)], 2.4, fill=p.dark)
    p.box(56, 58, 76, 97, fill=p.dark)
    p.oval(72, 79, 2.4, fill=p.light)


DRAWINGS: dict[str, Callable[[Pen], None]] = {
    "dog": _dog,
    "cat": _cat,
    "bird": _bird,
    "car": _car,
    "train": _train,
    "bell": _bell,
    "drum": _drum,
    "clock": _clock,
    "bee": _bee,
    "phone": _phone,
    "frog": _frog,
    "trumpet": _trumpet,
    "ball": _ball,
    "star": _star,
    "box": _box,
    "kite": _kite,
    "tree": _tree,
    "house": _house,
}


@lru_cache(maxsize=2 * len(DRAWINGS) * len(COLOURS))
def sprite(thing: str, colour: str, pixels: int = 128) -> Image.Image:
    """The drawing of a thing, a square RGBA picture of `pixels`; shared: copy it to change it."""
    pen = Pen(colour, pixels * SUPERSAMPLE)
    DRAWINGS[thing](pen)
    # A thin outline under the drawing sets it off from any ground.
    spread = pen.image.getchannel("A").filter(
        ImageFilter.GaussianBlur(0.009 * pixels * SUPERSAMPLE)
    )
    outline = Image.new("RGBA", pen.image.size, (*mix(pen.body, (24, 24, 28), 0.7), 0))
    outline.putalpha(spread.point([0] * 8 + [255] * 248))
    outline.alpha_composite(pen.image)
    return outline.resize((pixels, pixels), Image.Resampling.BOX)
