"""The vocabulary of the synthetic world: everything that can be shown, heard or said, in English
and Chinese.

It is small and closed on purpose: a language model of a few million parameters has to learn all of
it, and a scorer has to recognise every word. Where a word is a part of another (sea, sea horse),
the longer one is looked for first.

`THINGS` are those the world can draw. `PHOTOGRAPHED` are those a builder of training material may
have photographs of; some things are both. The world itself never shows a photograph.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """Something that can be shown, and heard if it has a `sound`.

    `measure` is the Chinese measure word (一只狗), `sound` the English participle ("a dog barking")
    and `sound_zh` what follows 在 in Chinese (狗在叫); both are empty for silent things. `scenery`
    fills a picture (the sea, rain): there are never two of it, nor another thing beside it.
    """

    name: str
    plural: str
    chinese: str
    measure: str
    sound: str = ""
    sound_zh: str = ""
    article: str = "a"
    scenery: bool = False

    @property
    def named(self) -> str:
        """With its article: "a dog", "an airplane", "the sea", "rain"."""
        return f"{self.article} {self.name}".strip()


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

_PHOTOGRAPHED = (
    Thing("cow", "cows", "牛", "头", "mooing", "叫"),
    Thing("helicopter", "helicopters", "直升机", "架", "flying", "飞"),
    Thing("lion", "lions", "狮子", "只", "roaring", "吼"),
    Thing("monkey", "monkeys", "猴子", "只", "calling", "叫"),
    Thing("rooster", "roosters", "公鸡", "只", "crowing", "打鸣"),
    Thing("sheep", "sheep", "羊", "只", "bleating", "叫"),
    Thing("person", "people", "人", "个", "speaking", "说话"),
    Thing("rain", "rain", "雨", "场", "falling", "下", article="", scenery=True),
    Thing("sea", "sea", "大海", "片", "rolling", "翻滚", article="the", scenery=True),
    Thing("accordion", "accordions", "手风琴", "架", article="an"),
    Thing("airplane", "airplanes", "飞机", "架", article="an"),
    Thing("ant", "ants", "蚂蚁", "只", article="an"),
    Thing("butterfly", "butterflies", "蝴蝶", "只"),
    Thing("bus", "buses", "公交车", "辆"),
    Thing("camera", "cameras", "相机", "台"),
    Thing("ceiling fan", "ceiling fans", "吊扇", "台"),
    Thing("chair", "chairs", "椅子", "把"),
    Thing("chandelier", "chandeliers", "吊灯", "盏"),
    Thing("cloudy sky", "cloudy skies", "阴天", "片", scenery=True),
    Thing("crab", "crabs", "螃蟹", "只"),
    Thing("crocodile", "crocodiles", "鳄鱼", "条"),
    Thing("cup", "cups", "杯子", "个"),
    Thing("deer", "deer", "鹿", "只"),
    Thing("dolphin", "dolphins", "海豚", "只"),
    Thing("dragonfly", "dragonflies", "蜻蜓", "只"),
    Thing("elephant", "elephants", "大象", "头", article="an"),
    Thing("fish", "fish", "鱼", "条"),
    Thing("flower", "flowers", "花", "朵"),
    Thing("gramophone", "gramophones", "留声机", "台"),
    Thing("guitar", "guitars", "吉他", "把"),
    Thing("hedgehog", "hedgehogs", "刺猬", "只"),
    Thing("horse", "horses", "马", "匹"),
    Thing("kangaroo", "kangaroos", "袋鼠", "只"),
    Thing("lamp", "lamps", "台灯", "盏"),
    Thing("laptop", "laptops", "电脑", "台"),
    Thing("leopard", "leopards", "豹子", "只"),
    Thing("lobster", "lobsters", "龙虾", "只"),
    Thing("motorbike", "motorbikes", "摩托车", "辆"),
    Thing("octopus", "octopuses", "章鱼", "只", article="an"),
    Thing("panda", "pandas", "熊猫", "只"),
    Thing("piano", "pianos", "钢琴", "架"),
    Thing("pig", "pigs", "猪", "头"),
    Thing("pizza", "pizzas", "披萨", "个"),
    Thing("pyramid", "pyramids", "金字塔", "座"),
    Thing("rhino", "rhinos", "犀牛", "头"),
    Thing("saxophone", "saxophones", "萨克斯", "支"),
    Thing("scorpion", "scorpions", "蝎子", "只"),
    Thing("sea horse", "sea horses", "海马", "只"),
    Thing("ship", "ships", "船", "艘"),
    Thing("starfish", "starfish", "海星", "只"),
    Thing("stop sign", "stop signs", "停车标志", "个"),
    Thing("strawberry", "strawberries", "草莓", "个"),
    Thing("sunny sky", "sunny skies", "晴天", "片", scenery=True),
    Thing("sunrise", "sunrises", "日出", "场", scenery=True),
    Thing("tractor", "tractors", "拖拉机", "辆"),
    Thing("truck", "trucks", "卡车", "辆"),
    Thing("umbrella", "umbrellas", "雨伞", "把", article="an"),
    Thing("wheelchair", "wheelchairs", "轮椅", "把"),
)

# Drawn things of which there are photographs too.
_DRAWN_AND_PHOTOGRAPHED = (
    *("dog", "cat", "bird", "car", "train", "clock", "phone", "frog", "ball", "tree"),
)

THINGS: dict[str, Thing] = {thing.name: thing for thing in _SOUNDING + _SILENT}
SOUNDING: tuple[str, ...] = tuple(thing.name for thing in _SOUNDING)
SILENT: tuple[str, ...] = tuple(thing.name for thing in _SILENT)
PHOTOGRAPHED: dict[str, Thing] = {
    **{name: THINGS[name] for name in _DRAWN_AND_PHOTOGRAPHED},
    **{thing.name: thing for thing in _PHOTOGRAPHED},
}
NAMED: dict[str, Thing] = THINGS | PHOTOGRAPHED  # everything there is a word for
AUDIBLE: tuple[str, ...] = tuple(name for name, thing in NAMED.items() if thing.sound)

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
