"""Questions about a scene, with answers that are true by construction.

What a question is about (which group, which absent thing) depends on the scene's seed and the kind
alone, so that the English and the Chinese question of a kind ask the same; the phrasing depends on
the language too.
"""

import random
from collections.abc import Callable, Collection
from dataclasses import dataclass

from video_llama.data.world.answers import (
    NO_COLOUR,
    NO_PICTURE,
    NO_SOUND,
    QA,
    Language,
    score,
    words_in,
)
from video_llama.data.world.scene import Group, Scene
from video_llama.data.world.things import AUDIBLE, COUNTS, NAMED, SOUNDING, THINGS
from video_llama.data.world.wording import Chinese, English
from video_llama.errors import OptionError

__all__ = ["QA", "QUESTION_KINDS", "questions", "score", "words_in"]

Words = English | Chinese
WORDS: dict[str, Words] = {"en": English(), "zh": Chinese()}

CASUAL = 0.12  # share of questions in small letters and without the last mark
MISSING = ("missing", "thing")


@dataclass(frozen=True)
class _Reply:
    """The answer to one question, and what it asks about, which the phrasing names."""

    answer: str
    words: tuple[str, ...]
    classes: tuple[str, ...]
    asked: str = "dog"
    count: int = 1
    side: str = "left"
    ordered: bool = False


def questions(
    scene: Scene,
    language: Language = "en",
    *,
    kinds: Collection[str] | None = None,
    rng: random.Random | None = None,
) -> list[QA]:
    """Questions about a scene, one of each kind that makes sense for it.

    Where there is no sound (or no picture), one question about it is asked all the same, and
    answered so. `kinds` asks for exactly these kinds instead, except those that need two groups
    where there is one. With `rng` the wording and the objects of the questions differ each time.
    Raises OptionError for an unknown language or kind.
    """
    if language not in WORDS:
        raise OptionError(f"language {language!r} is unknown; known: {', '.join(WORDS)}")
    for kind in kinds or ():
        if kind not in _REPLIES:
            raise OptionError(
                f"question kind {kind!r} is unknown; known: {', '.join(QUESTION_KINDS)}"
            )
    words = WORDS[language]
    asked = (
        _sensible_kinds(scene, rng) if kinds is None else [k for k in kinds if _possible(k, scene)]
    )
    made = []
    for kind in asked:
        about = rng or random.Random(f"about/{kind}/{scene.seed}")
        reply = _REPLIES[kind](scene, words, about)
        wording = rng or random.Random(f"wording/{language}/{kind}/{scene.seed}")
        question = _phrase(kind, scene, reply, words, wording)
        made.append(
            QA(kind, language, question, reply.answer, reply.words, reply.classes, reply.ordered)
        )
    return made


def _possible(kind: str, scene: Scene) -> bool:
    if kind in ("count", "motion") and any(NAMED[name].scenery for name in scene.things):
        return False
    relation = {"order": "then", "place": "beside"}.get(kind)
    return relation is None or (bool(scene.groups) and scene.relation == relation)


def _sensible_kinds(scene: Scene, rng: random.Random | None) -> list[str]:
    """Kinds in their fixed order: all about what is there, one about what is not."""
    missing: tuple[str, ...] = ()
    if not scene.groups:
        missing = ("object", "colour", "count", "motion", "match", "presence")
    elif scene.sound is None:
        missing = ("sound", "match", "audible", "both")
    kept = {(rng or random.Random(f"kinds/{scene.seed}")).choice(missing)} if missing else set()
    if scene.kind == "image":
        missing += ("motion",)
    return [k for k in QUESTION_KINDS if _possible(k, scene) and (k not in missing or k in kept)]


def _phrase(kind: str, scene: Scene, reply: _Reply, words: Words, rng: random.Random) -> str:
    ways = words.phrasings[kind]
    choices = ways.any
    if scene.groups:
        choices += ways.picture
    if len(scene.groups) == 1:
        choices += ways.single
    text = rng.choice(choices).format(
        **words.slots(reply.asked, reply.count),
        medium=rng.choice(words.media[scene.kind]),
        side=words.sides[reply.side],
    )
    text = text[0].upper() + text[1:]
    if rng.random() < CASUAL:
        text = text.rstrip("?.？。")
        text = text[0].lower() + text[1:]
    return text


def _no_picture(words: Words, scene: Scene) -> _Reply:
    return _Reply(words.no_picture, (NO_PICTURE,), MISSING, asked=scene.sound or "dog")


def _no_sound(words: Words) -> _Reply:
    return _Reply(words.no_sound, (NO_SOUND,), MISSING)


def _object(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001 (one form for all)
    if not scene.groups:
        return _no_picture(words, scene)
    return _Reply(words.is_seen(scene.groups), scene.things, ("thing", "missing"))


def _about_group(
    scene: Scene,
    words: Words,
    rng: random.Random,
    say: Callable[[Group], str],
    word: Callable[[Group], str],
    word_class: str,
) -> _Reply:
    if not scene.groups:
        return _no_picture(words, scene)
    group = rng.choice(scene.groups)
    classes = (word_class, "missing")
    return _Reply(say(group), (word(group),), classes, asked=group.thing, count=group.count)


def _colour(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    return _about_group(
        scene, words, rng, words.has_colour, lambda g: g.colour or NO_COLOUR, "colour"
    )


def _count(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    return _about_group(scene, words, rng, words.has_count, lambda g: COUNTS[g.count - 1], "count")


def _motion(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    return _about_group(scene, words, rng, words.moves, lambda g: g.motion, "motion")


def _place(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    group = rng.choice(scene.groups)
    side = "left" if group == scene.groups[0] else "right"
    return _Reply(words.is_at(group, side), (group.thing,), ("thing", "missing"), side=side)


def _order(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001
    answer = words.in_order(*scene.groups)
    return _Reply(answer, scene.things, ("thing", "missing"), ordered=True)


def _sound(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001
    if scene.sound is None:
        return _no_sound(words)
    return _Reply(words.is_heard(scene.sound), (scene.sound,), ("thing", "missing"))


def _match(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001
    if scene.sound is None:
        return _no_sound(words)
    if not scene.groups:
        return _no_picture(words, scene)
    if scene.sound_matches:
        return _Reply(words.matches, ("yes",), ("yesno",))
    return _Reply(words.does_not_match(scene.groups, scene.sound), ("no",), ("yesno",))


def _presence(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    if not scene.groups:
        return _no_picture(words, scene)
    if rng.random() < 0.5:
        group = rng.choice(scene.groups)
        return _Reply(words.is_present(group), ("yes",), ("yesno",), asked=group.thing)
    # What is heard and not seen is the hardest to deny.
    heard = scene.sound if scene.sound not in scene.things else None
    known = THINGS if scene.all_drawn else NAMED
    absent = [name for name in known if name not in scene.things]
    name = heard if heard and rng.random() < 0.3 else rng.choice(absent)
    return _Reply(words.is_absent(name), ("no",), ("yesno",), asked=name)


def _audible(scene: Scene, words: Words, rng: random.Random) -> _Reply:
    known = SOUNDING if scene.all_drawn else AUDIBLE
    if scene.sound is None:
        name = rng.choice([n for n in scene.things if n in known] or known)
        return _Reply(words.no_sound_heard, ("no",), ("yesno",), asked=name)
    if rng.random() < 0.5:
        return _Reply(words.is_audible(scene.sound), ("yes",), ("yesno",), asked=scene.sound)
    silent = [name for name in known if name != scene.sound]
    shown = [name for name in silent if name in scene.things]
    name = rng.choice(shown) if shown and rng.random() < 0.5 else rng.choice(silent)
    return _Reply(words.is_inaudible(name), ("no",), ("yesno",), asked=name)


def _describe(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001
    answer = words.description(scene)
    if scene.kind == "audio":
        return _Reply(answer, (str(scene.sound),), ("thing", "missing"))
    expected: list[str] = []
    for index, group in enumerate(scene.groups):
        number = [COUNTS[group.count - 1]] if group.count > 1 else []
        expected += [*number, *([group.colour] if group.colour else []), group.thing]
        said_now = scene.relation == "then" or index == len(scene.groups) - 1
        expected += [group.motion] if said_now and scene.kind == "video" else []
    classes = ("thing", "colour", "several", "missing")
    classes += ("motion",) if scene.kind == "video" else ()
    return _Reply(answer, tuple(expected), classes, ordered=True)


def _both(scene: Scene, words: Words, rng: random.Random) -> _Reply:  # noqa: ARG001
    answer = words.seen_and_heard(scene.groups, scene.sound)
    expected = (*(scene.things or (NO_PICTURE,)), scene.sound or NO_SOUND)
    return _Reply(answer, expected, ("thing", "missing"), ordered=True)


_REPLIES: dict[str, Callable[[Scene, Words, random.Random], _Reply]] = {
    "object": _object,
    "colour": _colour,
    "count": _count,
    "motion": _motion,
    "place": _place,
    "order": _order,
    "sound": _sound,
    "match": _match,
    "presence": _presence,
    "audible": _audible,
    "describe": _describe,
    "both": _both,
}
QUESTION_KINDS: tuple[str, ...] = tuple(_REPLIES)
