"""How things are named and each kind of question is answered, in English and in Chinese."""

from collections.abc import Sequence
from typing import ClassVar

from video_llama.data.world.phrasings import CHINESE, ENGLISH
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.things import COLOURS_ZH, COUNTS, COUNTS_ZH, MOTION_WORDS, NAMED


class English:
    """English phrasings and answers."""

    code = "en"
    media: ClassVar = {
        "video": ("video", "clip"),
        "image": ("picture", "image", "photo"),
        "audio": ("sound", "recording"),
    }
    sides: ClassVar = {"left": "left", "right": "right"}
    no_sound = "There is no sound."
    no_picture = "There is no picture."
    no_sound_heard = "No, there is no sound."
    matches = "Yes, the sound matches the picture."

    phrasings: ClassVar = ENGLISH

    def slots(self, name: str, count: int) -> dict[str, str]:
        """What a phrasing's braces stand for, for `count` of a thing."""
        thing, one = NAMED[name], count == 1
        return {
            "a": thing.named,
            "the": f"the {name if one else thing.plural}" if thing.article else name,
            "plural": thing.plural,
            "is": "is" if one else "are",
            "does": "does" if one else "do",
            "move": "moves" if one else "move",
            "doing": thing.sound or "playing",
        }

    def some(self, group: Group, coloured: bool = False) -> str:
        """Example: "a dog", "two red dogs"."""
        colour = (coloured and group.colour) or ""
        words = [COUNTS[group.count - 1], colour, self._noun(group)]
        if group.count == 1:
            words[0] = NAMED[group.thing].article
            if colour:
                words[0] = "an" if colour == "orange" else "a"
        return " ".join(filter(None, words))

    def every(self, groups: Sequence[Group], coloured: bool = False) -> str:
        """Example: "a dog and two cats"."""
        return " and ".join(self.some(group, coloured) for group in groups)

    def noise(self, name: str) -> str:
        """Example: "a dog barking"."""
        return f"{NAMED[name].named} {NAMED[name].sound}"

    def is_seen(self, groups: Sequence[Group]) -> str:
        """The answer to what is to be seen."""
        return _sentence(self.every(groups))

    def has_colour(self, group: Group) -> str:
        """The answer to a question about a colour."""
        if group.colour is None:
            return f"I cannot tell the colour of {self._the(group)}."
        return f"{self._the(group, True)} {self._be(group)} {group.colour}."

    def has_count(self, group: Group) -> str:
        """The answer to how many there are."""
        return f"There {self._be(group)} {COUNTS[group.count - 1]} {self._noun(group)}."

    def moves(self, group: Group) -> str:
        """The answer to how something moves."""
        return f"{self._the(group, True)} {self._motion(group.motion, group.count)}."

    def is_at(self, group: Group, side: str) -> str:
        """The answer to what is on a side."""
        return f"{self._the(group, True)} {self._be(group)} on the {side}."

    def in_order(self, first: Group, then: Group) -> str:
        """The answer to what comes first."""
        return f"First {self.some(first)}, then {self.some(then)}."

    def is_heard(self, name: str) -> str:
        """The answer to what is to be heard."""
        return f"I hear {self.noise(name)}."

    def does_not_match(self, groups: Sequence[Group], sound: str) -> str:
        """The answer to whether sound and picture match, if they do not."""
        return f"No, I see {self.every(groups)} but I hear {NAMED[sound].named}."

    def is_present(self, group: Group) -> str:
        """The answer to whether something is to be seen, if it is."""
        return f"Yes, there {self._be(group)} {self.some(group)}."

    def is_absent(self, name: str) -> str:
        """The answer to whether something is to be seen, if it is not."""
        return f"No, there is no {name}."

    def is_audible(self, name: str) -> str:
        """The answer to whether something is to be heard, if it is."""
        return f"Yes, I hear {NAMED[name].named}."

    def is_inaudible(self, name: str) -> str:
        """The answer to whether something is to be heard, if it is not."""
        return f"No, I hear no {name}."

    def seen_and_heard(self, groups: Sequence[Group], sound: str | None) -> str:
        """The answer to what is to be seen and heard; either may be missing."""
        if not groups:
            return f"There is no picture and I hear {self.noise(str(sound))}."
        heard = "there is no sound" if sound is None else f"I hear {self.noise(sound)}"
        return f"I see {self.every(groups)} and {heard}."

    def description(self, scene: Scene) -> str:
        """The whole of what is shown in a sentence; of a sound alone, what is heard."""
        if not scene.groups:
            return self.is_heard(str(scene.sound))
        if scene.kind == "image":
            return f"There {self._be(scene.groups[0])} {self.every(scene.groups, coloured=True)}."
        if scene.relation == "then":
            first, then = (
                f"{self.some(g, coloured=True)} {self._motion(g.motion, g.count)}"
                for g in scene.groups
            )
            return f"First {first}, then {then}."
        number = sum(group.count for group in scene.groups)
        seen = self.every(scene.groups, coloured=True)
        return _sentence(f"{seen} {self._motion(scene.groups[0].motion, number)}")

    @staticmethod
    def _noun(group: Group) -> str:
        return group.thing if group.count == 1 else NAMED[group.thing].plural

    @classmethod
    def _the(cls, group: Group, first: bool = False) -> str:
        article = "the " if NAMED[group.thing].article else ""
        text = f"{article}{cls._noun(group)}"
        return text[0].upper() + text[1:] if first else text

    @staticmethod
    def _be(group: Group) -> str:
        return "is" if group.count == 1 else "are"

    @staticmethod
    def _motion(motion: str, count: int) -> str:
        return MOTION_WORDS[motion].one if count == 1 else MOTION_WORDS[motion].several


class Chinese:
    """Chinese phrasings and answers."""

    code = "zh"
    media: ClassVar = {"video": ("视频",), "image": ("图片",), "audio": ("声音",)}
    sides: ClassVar = {"left": "左边", "right": "右边"}
    no_sound = "没有声音。"
    no_picture = "没有画面。"
    no_sound_heard = "不，没有声音。"
    matches = "是的，声音和画面一致。"

    phrasings: ClassVar = CHINESE

    def slots(self, name: str, count: int) -> dict[str, str]:  # noqa: ARG002 (Chinese has no plural)
        """What a phrasing's braces stand for."""
        return {"the": NAMED[name].chinese, "measure": NAMED[name].measure}

    def some(self, group: Group, coloured: bool = False) -> str:
        """Example: "一只狗", "两只红色的狗"."""
        thing = NAMED[group.thing]
        colour = f"{COLOURS_ZH[group.colour]}的" if coloured and group.colour else ""
        return f"{COUNTS_ZH[group.count - 1]}{thing.measure}{colour}{thing.chinese}"

    def every(self, groups: Sequence[Group], coloured: bool = False) -> str:
        """Example: "一只狗和两只猫"."""
        return "和".join(self.some(group, coloured) for group in groups)

    def noise(self, name: str) -> str:
        """Example: "狗在叫"."""
        return f"{NAMED[name].chinese}在{NAMED[name].sound_zh}"

    def is_seen(self, groups: Sequence[Group]) -> str:
        """The answer to what is to be seen."""
        return f"{self.every(groups)}。"

    def has_colour(self, group: Group) -> str:
        """The answer to a question about a colour."""
        if group.colour is None:
            return f"我说不出颜色：{NAMED[group.thing].chinese}。"
        return f"{NAMED[group.thing].chinese}是{COLOURS_ZH[group.colour]}的。"

    def has_count(self, group: Group) -> str:
        """The answer to how many there are."""
        return f"有{self.some(group)}。"

    def moves(self, group: Group) -> str:
        """The answer to how something moves."""
        return f"{NAMED[group.thing].chinese}{MOTION_WORDS[group.motion].chinese}。"

    def is_at(self, group: Group, side: str) -> str:
        """The answer to what is on a side."""
        return f"{self.sides[side]}是{NAMED[group.thing].chinese}。"

    def in_order(self, first: Group, then: Group) -> str:
        """The answer to what comes first."""
        return f"先是{self.some(first)}，然后是{self.some(then)}。"

    def is_heard(self, name: str) -> str:
        """The answer to what is to be heard."""
        return f"我听到{self.noise(name)}。"

    def does_not_match(self, groups: Sequence[Group], sound: str) -> str:
        """The answer to whether sound and picture match, if they do not."""
        return f"不，我看到{self.every(groups)}，但是听到{NAMED[sound].chinese}。"

    def is_present(self, group: Group) -> str:
        """The answer to whether something is to be seen, if it is."""
        return f"是的，有{self.some(group)}。"

    def is_absent(self, name: str) -> str:
        """The answer to whether something is to be seen, if it is not."""
        return f"不，没有{NAMED[name].chinese}。"

    def is_audible(self, name: str) -> str:
        """The answer to whether something is to be heard, if it is."""
        return f"是的，我听到{NAMED[name].chinese}。"

    def is_inaudible(self, name: str) -> str:
        """The answer to whether something is to be heard, if it is not."""
        return f"不，我没有听到{NAMED[name].chinese}。"

    def seen_and_heard(self, groups: Sequence[Group], sound: str | None) -> str:
        """The answer to what is to be seen and heard; either may be missing."""
        if not groups:
            return f"没有画面，我听到{self.noise(str(sound))}。"
        heard = "没有声音" if sound is None else f"听到{self.noise(sound)}"
        return f"我看到{self.every(groups)}，{heard}。"

    def description(self, scene: Scene) -> str:
        """The whole of what is shown in a sentence; of a sound alone, what is heard."""
        if not scene.groups:
            return self.is_heard(str(scene.sound))
        if scene.kind == "image":
            return f"有{self.every(scene.groups, coloured=True)}。"
        if scene.relation == "then":
            first, then = (
                f"{self.some(g, coloured=True)}{MOTION_WORDS[g.motion].chinese}"
                for g in scene.groups
            )
            return f"先是{first}，然后是{then}。"
        seen = self.every(scene.groups, coloured=True)
        return f"{seen}{MOTION_WORDS[scene.groups[0].motion].chinese}。"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:] + "."
