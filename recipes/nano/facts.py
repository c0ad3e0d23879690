"""What the tokens of a branch say: one word for each query, taken from the facts of a scene.

Stage 1 of a branch pulls every query's token towards the language model's own embedding of its
word. The words are what the language model has read in the same places during its pre-training.
"""

from dataclasses import dataclass
from functools import cached_property

from video_llama.data.world.scene import Scene
from video_llama.data.world.things import COLOURS, COUNTS, MOTIONS, NAMED, RELATIONS

NOTHING = "nothing"
# The token that names the thing a token speaks of. A colour, a number or a motion also carries
# OWNER_SHARE of its owner's word: asked about one of two things, the language model then finds what
# belongs to it by looking for its name, not by learning which places go together.
VIDEO_OWNERS: tuple[int | None, ...] = (None, 0, 0, 0, None, 4, 4, 4, None)
OWNER_SHARE = 0.8


@dataclass(frozen=True)
class Vocabulary:
    """The words each of the nine video tokens (group A, group B, relation) and of the two audio
    tokens (what is heard, how it sounds) may say."""

    things: tuple[str, ...]
    audible: tuple[str, ...]

    @cached_property
    def video(self) -> tuple[tuple[str, ...], ...]:
        """The words of each video token; "nothing" where there is none to say."""
        # Of a photograph the colour is not known; in a picture nothing can be said of motion.
        colours, motions = (NOTHING, *COLOURS), (NOTHING, *MOTIONS)
        group_a = (self.things, colours, COUNTS, motions)
        group_b = ((NOTHING, *self.things), colours, (NOTHING, *COUNTS), motions)
        return (*group_a, *group_b, RELATIONS)

    @cached_property
    def audio(self) -> tuple[tuple[str, ...], ...]:
        """The words of each audio token."""
        return self.audible, tuple(dict.fromkeys(NAMED[name].sound for name in self.audible))

    def video_labels(self, scene: Scene) -> list[int]:
        """For each video token, which of its words a scene that is seen wants."""
        said = video_words(scene)
        return [words.index(word) for words, word in zip(self.video, said, strict=True)]

    def audio_labels(self, thing: str) -> list[int]:
        """For each audio token, which of its words a thing that is heard wants."""
        said = audio_words(thing)
        return [words.index(word) for words, word in zip(self.audio, said, strict=True)]


def video_words(scene: Scene) -> tuple[str, ...]:
    """The nine words of a scene that is seen."""
    words: list[str] = []
    for group in scene.groups:
        motion = NOTHING if scene.kind == "image" else group.motion
        words += [group.thing, group.colour or NOTHING, COUNTS[group.count - 1], motion]
    words += [NOTHING] * (8 - len(words))
    return (*words, scene.relation)


def audio_words(thing: str) -> tuple[str, str]:
    """The two words of a thing that is heard."""
    return thing, NAMED[thing].sound
