"""The vocabulary of the synthetic world: everything that can be shown, heard or said, in English
and Chinese.

It is small and closed on purpose: a language model of a few million parameters has to learn all of
it, and a scorer has to recognise every word. No Chinese word of a class is a part of another of the
same class, so that words can be found in running text, which Chinese does not divide.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """Something that can be shown, and heard if it has a `sound`.

    `measure` is the Chinese measure word (一只狗), `sound` the English participle ("a dog barking")
    and `sound_zh` what follows 在 in Chinese (狗在叫); both are empty for silent things.
    """

    name: str
    plural: str
    chinese: str
    measure: str
    sound: str = ""
    sound_zh: str = ""


_SOUNDING = (
    Thing("dog", "dogs", "狗", "只", "barking", "叫"),
    Thing("cat", "cats", "猫", "只", "meowing", "叫"),
    Thing("bird", "birds", "鸟", "只", "singing", "唱歌"),
    Thing("car", "cars", "汽车", "辆", "driving", "开"),
    Thing("train", "trains", "火车", "列", "passing", "开"),
    Thing("bell", "bells", "铃铛", "个", "ringing", "响"),
    Thing("drum", "drums", "鼓", "个", "beating", "响"),
    Thing("clock", "clocks", "时钟", "个", "ticking", "走"),
    Thing("bee", "bees", "蜜蜂", "只", "buzzing", "叫"),
    Thing("phone", "phones", "电话", "个", "ringing", "响"),
    Thing("frog", "frogs", "青蛙", "只", "croaking", "叫"),
    Thing("trumpet", "trumpets", "小号", "个", "playing", "响"),
)

_SILENT = (
    Thing("ball", "balls", "球", "个"),
    Thing("star", "stars", "星星", "颗"),
    Thing("box", "boxes", "盒子", "个"),
    Thing("kite", "kites", "风筝", "个"),
    Thing("tree", "trees", "树", "棵"),
    Thing("house", "houses", "房子", "座"),
)

THINGS: dict[str, Thing] = {thing.name: thing for thing in _SOUNDING + _SILENT}
SOUNDING: tuple[str, ...] = tuple(thing.name for thing in _SOUNDING)
SILENT: tuple[str, ...] = tuple(thing.name for thing in _SILENT)

COLOURS: dict[str, tuple[int, int, int]] = {  # red, green, blue of the body, 0..255
    "red": (214, 38, 38),
    "orange": (246, 132, 18),
    "yellow": (248, 216, 40),
    "green": (40, 158, 58),
    "blue": (38, 92, 218),
    "purple": (142, 58, 192),
    "white": (246, 246, 246),
    "black": (26, 26, 29),
}
COLOURS_ZH: dict[str, str] = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "blue": "蓝色",
    "purple": "紫色",
    "white": "白色",
    "black": "黑色",
}

COUNTS: tuple[str, ...] = ("one", "two", "three", "four")  # the word of count n is COUNTS[n - 1]
COUNTS_ZH: tuple[str, ...] = ("一", "两", "三", "四")

MOTIONS: tuple[str, ...] = ("still", "left", "right", "up", "down", "closer", "away")


@dataclass(frozen=True)
class MotionWords:
    """How a motion is said of one thing, of several, and in Chinese; `key_zh` decides."""

    one: str
    several: str
    chinese: str
    key_zh: str


MOTION_WORDS: dict[str, MotionWords] = {
    "still": MotionWords("stays still", "stay still", "不动", "不动"),
    "left": MotionWords("moves left", "move left", "向左移动", "向左"),
    "right": MotionWords("moves right", "move right", "向右移动", "向右"),
    "up": MotionWords("moves up", "move up", "向上移动", "向上"),
    "down": MotionWords("moves down", "move down", "向下移动", "向下"),
    "closer": MotionWords("comes closer", "come closer", "在靠近", "靠近"),
    "away": MotionWords("goes away", "go away", "在远离", "远离"),
}

RELATIONS: tuple[str, ...] = ("alone", "beside", "then")
KINDS: tuple[str, ...] = ("video", "image", "audio")
