"""What the tokens of a branch say: one word for each query, taken from the facts of a scene.

Stage 1 of a branch pulls every query's token towards the language model's own embedding of its
word. The words are what the language model has read in the same places during its pre-training.
"""

from video_llama.data.world.scene import Scene
from video_llama.data.world.things import (
    COLOURS,
    COUNTS,
    MOTIONS,
    RELATIONS,
    SOUNDING,
    THINGS,
)

NOTHING = "nothing"

# The words each of the nine video tokens may say: group A, group B, how they stand together.
GROUP_WORDS: tuple[tuple[str, ...], ...] = (
    tuple(THINGS),
    tuple(COLOURS),
    tuple(COUNTS),
    tuple(MOTIONS),
)
VIDEO_WORDS: tuple[tuple[str, ...], ...] = (
    *GROUP_WORDS[:3],
    (NOTHING, *MOTIONS),  # in a picture nothing can be said of motion
    *((NOTHING, *words) for words in GROUP_WORDS),
    tuple(RELATIONS),
)
# The two audio tokens: what is heard and how it sounds.
SOUND_OF = {name: THINGS[name].sound for name in SOUNDING}
AUDIO_WORDS: tuple[tuple[str, ...], ...] = (
    tuple(SOUNDING),
    tuple(dict.fromkeys(SOUND_OF.values())),
)


def video_words(scene: Scene) -> tuple[str, ...]:
    """The nine words of a scene that is seen."""
    words: list[str] = []
    for group in scene.groups:
        motion = NOTHING if scene.kind == "image" else group.motion
        words += [group.thing, group.colour, COUNTS[group.count - 1], motion]
    words += [NOTHING] * (8 - len(words))
    return (*words, scene.relation)


def audio_words(thing: str) -> tuple[str, str]:
    """The two words of a thing that is heard."""
    return thing, SOUND_OF[thing]
