"""What happens in a clip of the synthetic world: the facts, and how they are drawn at random.

A scene holds facts only; `draw`, `sounds` and `questions` turn it into frames, a waveform and text,
and take everything that the facts leave open (place, size, background, pitch, wording) from
`Scene.seed`.

Seeds below `HELD_OUT_SEED` are for training, seeds from there on for evaluation: what is measured
on `scene_from_seed(HELD_OUT_SEED + n)` was never rendered in training.
"""

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import numpy as np

from video_llama.data.world.things import (
    AUDIBLE,
    COLOURS,
    KINDS,
    MOTIONS,
    NAMED,
    PHOTOGRAPHED,
    RELATIONS,
    SOUNDING,
    THINGS,
)
from video_llama.errors import OptionError

HELD_OUT_SEED = 1_000_000  # training uses seeds below it, held-out evaluation seeds from it on

T = TypeVar("T")
Kind = Literal["video", "image", "audio"]

# How often each case is drawn; any of them can be overridden in `sample_scene`.
RELATION_WEIGHTS: dict[str, float] = {"alone": 0.6, "beside": 0.15, "then": 0.25}
COUNT_WEIGHTS: dict[int, float] = {1: 0.52, 2: 0.18, 3: 0.15, 4: 0.15}
MOTION_WEIGHTS: dict[str, float] = dict.fromkeys(MOTIONS, 1.0)
SOUND_WEIGHTS: dict[str, float] = {"none": 0.3, "match": 0.35, "other": 0.35}

MAX_COUNT_BESIDE = 2  # things of a group in one half of the frame


@dataclass(frozen=True)
class Group:
    """One to four equal things that move together.

    A drawn thing has a colour. Without one (None) it is a thing of a photograph, which the world
    does not draw itself: see `draw.Look`.
    """

    thing: str
    colour: str | None
    count: int = 1
    motion: str = "still"

    def __post_init__(self) -> None:
        if self.colour is None:
            _require("thing", self.thing, PHOTOGRAPHED)
        else:
            _require("thing", self.thing, THINGS)
            _require("colour", self.colour, COLOURS)
        _require("count", self.count, COUNT_WEIGHTS)
        if self.count > 1 and NAMED[self.thing].scenery:
            raise OptionError(f"{self.thing!r} fills the picture: there are never {self.count}")
        _require("motion", self.motion, MOTIONS)


@dataclass(frozen=True)
class Scene:
    """The facts of one clip, picture or sound.

    `groups` is empty for a sound alone. `relation` is "alone" for one group; of two groups, A and
    B, "beside" shows both all along, A on the left, and "then" shows A in the first half and B in
    the second. `sound` names the thing that is heard; None means that there is no sound track at
    all. A picture is a scene of 0 seconds.
    """

    groups: tuple[Group, ...]
    relation: str = "alone"
    sound: str | None = None
    seconds: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        _require("relation", self.relation, RELATIONS)
        if self.sound is not None:
            _require("sound", self.sound, AUDIBLE)
        if not self.groups and self.sound is None:
            raise OptionError("a scene needs something to show or something to hear; got neither")
        if self.groups and len(self.groups) != (1 if self.relation == "alone" else 2):
            raise OptionError(
                f"relation {self.relation!r} does not fit {len(self.groups)} group(s)"
            )
        if len(set(self.things)) != len(self.groups):
            raise OptionError("the two groups of a scene must be different things")
        if self.relation == "beside" and len({g.motion for g in self.groups}) > 1:
            raise OptionError("two groups beside each other move together: give both one motion")
        if self.seed < 0:
            raise OptionError(f"a seed is 0 or above; got {self.seed}")
        changes = (
            self.sound or self.relation == "then" or any(g.motion != "still" for g in self.groups)
        )
        if self.seconds < 0 or (self.seconds == 0 and changes):
            raise OptionError(
                f"a scene that moves or sounds needs seconds above 0; got {self.seconds}"
            )

    @property
    def things(self) -> tuple[str, ...]:
        """The names of what is shown, A first."""
        return tuple(group.thing for group in self.groups)

    @property
    def kind(self) -> Kind:
        """ "audio" without anything to show, "image" where no time passes, else "video"."""
        if not self.groups:
            return "audio"
        return "video" if self.seconds > 0 else "image"

    @property
    def all_drawn(self) -> bool:
        """Whether all that is seen and heard is the world's own."""
        drawn = all(group.colour is not None for group in self.groups)
        return drawn and self.sound in (None, *SOUNDING)

    @property
    def sound_matches(self) -> bool | None:
        """Whether the sound belongs to something shown; None if a picture or a sound is missing."""
        if self.sound is None or not self.groups:
            return None
        return self.sound in self.things

    def facts(self) -> dict[str, object]:
        """The facts as plain values, for JSON."""
        return {
            "groups": [
                {"thing": g.thing, "colour": g.colour, "count": g.count, "motion": g.motion}
                for g in self.groups
            ],
            "relation": self.relation,
            "sound": self.sound,
            "sound_matches": self.sound_matches,
        }


def scene_of_facts(facts: Mapping[str, Any], *, seconds: float, seed: int) -> Scene:
    """The scene that `Scene.facts` told of. Raises OptionError for facts that cannot be."""
    names = ("thing", "colour", "count", "motion")
    groups = tuple(Group(*(group[name] for name in names)) for group in facts["groups"])
    return Scene(groups, facts["relation"], facts["sound"], seconds, seed)


def sample_scene(
    rng: random.Random | np.random.Generator,
    kind: Kind = "video",
    *,
    seconds: float = 4.0,
    relation_weights: Mapping[str, float] | None = None,
    count_weights: Mapping[int, float] | None = None,
    motion_weights: Mapping[str, float] | None = None,
    sound_weights: Mapping[str, float] | None = None,
    photographs: float = 0.0,
    audible: Sequence[str] = SOUNDING,
) -> Scene:
    """Draw a scene of a kind; the same state of `rng` gives the same scene.

    A picture ("image") does not move and has no sound; a sound ("audio") has no picture.
    `sound_weights` has the keys "none", "match" (something shown is heard) and "other" (something
    else is heard). A weight of 0, or a missing key, excludes a case. `photographs` is the share of
    things that are photographed instead of drawn, `audible` what may be heard. Raises OptionError
    for an unknown kind or case.
    """
    _require("kind", kind, KINDS)
    if isinstance(rng, np.random.Generator):
        rng = random.Random(int(rng.integers(2**62)))
    seed = rng.getrandbits(62)
    if kind == "audio":
        return Scene((), sound=rng.choice(audible), seconds=seconds, seed=seed)

    relations = _weights("relation", relation_weights, RELATION_WEIGHTS)
    motions = _weights("motion", motion_weights, MOTION_WEIGHTS)
    if kind == "image":
        relations = {name: w for name, w in relations.items() if name != "then"} or {"alone": 1.0}
        motions = {"still": 1.0}
        sound_weights = {"none": 1.0}
        seconds = 0.0
    relation = _draw(rng, relations)
    heard = _draw(rng, _weights("sound", sound_weights, SOUND_WEIGHTS))

    names = _sample_names(rng, 1 if relation == "alone" else 2, photographs)
    sound = None
    if heard == "match":
        shown = NAMED if photographs else THINGS
        sound = rng.choice([name for name in audible if name in shown and name not in names])
        names[rng.randrange(len(names))] = sound
    elif heard == "other":
        sound = rng.choice([name for name in audible if name not in names])

    counts = dict(_weights("count", count_weights, COUNT_WEIGHTS))
    scenery = [name for name in names if NAMED[name].scenery]
    if scenery:  # fills the picture, and does not move
        names, relation, counts, motions = scenery[:1], "alone", {1: 1.0}, {"still": 1.0}
    if relation == "beside":
        counts = {n: w for n, w in counts.items() if n <= MAX_COUNT_BESIDE} or {1: 1.0}
    together = _draw(rng, motions)
    groups = tuple(
        Group(
            thing=name,
            colour=_sample_colour(rng, name, photographs),
            count=_draw(rng, counts),
            motion=_draw(rng, motions) if relation == "then" else together,
        )
        for name in names
    )
    return Scene(groups, relation, sound, seconds, seed)


def _sample_names(rng: random.Random, count: int, photographs: float) -> list[str]:
    if not photographs:
        return rng.sample(list(THINGS), count)
    names: list[str] = []
    while len(names) < count:
        name = rng.choice(list(PHOTOGRAPHED if rng.random() < photographs else THINGS))
        names += [name] if name not in names else []
    return names


def _sample_colour(rng: random.Random, name: str, photographs: float) -> str | None:
    """None for a thing that is photographed."""
    drawn = name in THINGS
    if photographs and name in PHOTOGRAPHED and not (drawn and rng.random() >= photographs):
        return None
    return rng.choice(list(COLOURS))


def scene_from_seed(seed: int, kind: Kind = "video", *, seconds: float = 4.0) -> Scene:
    """The scene with a number, always the same; `HELD_OUT_SEED` parts training from evaluation."""
    scene = sample_scene(random.Random(f"world/{kind}/{seed}"), kind, seconds=seconds)
    return replace(scene, seed=seed)


def _require(field: str, value: object, accepted: Collection[Any]) -> None:
    if value not in accepted:
        raise OptionError(f"{field} {value!r} is unknown; known: {', '.join(map(str, accepted))}")


def _weights(
    field: str, given: Mapping[T, float] | None, default: Mapping[T, float]
) -> Mapping[T, float]:
    if given is None:
        return default
    for case in given:
        _require(field, case, default)
    positive = {case: weight for case, weight in given.items() if weight > 0}
    if not positive:
        raise OptionError(f"no {field} has a weight above 0")
    return positive


def _draw(rng: random.Random, weights: Mapping[T, float]) -> T:
    return rng.choices(list(weights), list(weights.values()))[0]
