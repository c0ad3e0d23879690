import dataclasses
import json
import random

import numpy as np
import pytest

from video_llama.data.world.scene import (
    HELD_OUT_SEED,
    MAX_COUNT_BESIDE,
    Group,
    Scene,
    sample_scene,
    scene_from_seed,
)
from video_llama.data.world.things import (
    COLOURS,
    COLOURS_ZH,
    COUNTS,
    COUNTS_ZH,
    MOTION_WORDS,
    MOTIONS,
    RELATIONS,
    SILENT,
    SOUNDING,
    THINGS,
)
from video_llama.errors import OptionError

SCENES = [scene_from_seed(seed) for seed in range(2000)]


def test_vocabulary_is_complete_in_both_languages():
    assert (len(SOUNDING), len(SILENT), len(COLOURS), len(MOTIONS)) == (12, 6, 8, 7)
    assert all(thing.chinese and thing.measure and thing.plural for thing in THINGS.values())
    assert all(THINGS[name].sound and THINGS[name].sound_zh for name in SOUNDING)
    assert not any(THINGS[name].sound for name in SILENT)
    assert set(COLOURS_ZH) == set(COLOURS)
    assert set(MOTION_WORDS) == set(MOTIONS)
    assert len(COUNTS_ZH) == len(COUNTS)


@pytest.mark.parametrize(
    "words",
    [
        [thing.chinese for thing in THINGS.values()],
        list(COLOURS_ZH.values()),
        list(COUNTS_ZH),
        [motion.key_zh for motion in MOTION_WORDS.values()],
    ],
)
def test_no_chinese_word_hides_in_another_of_its_class(words):
    assert len(set(words)) == len(words)
    assert not [(a, b) for a in words for b in words if a != b and a in b]


def test_same_seed_same_scene():
    assert sample_scene(random.Random(7)) == sample_scene(random.Random(7))
    assert sample_scene(np.random.default_rng(7)) == sample_scene(np.random.default_rng(7))
    assert scene_from_seed(7) == scene_from_seed(7)
    assert scene_from_seed(7) != scene_from_seed(8)
    assert scene_from_seed(HELD_OUT_SEED).seed == HELD_OUT_SEED


def test_scenes_of_videos_cover_everything_and_half_of_the_sounds_match():
    groups = [group for scene in SCENES for group in scene.groups]
    assert {group.thing for group in groups} == set(THINGS)
    assert {group.colour for group in groups} == set(COLOURS)
    assert {group.motion for group in groups} == set(MOTIONS)
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {scene.relation for scene in SCENES} == set(RELATIONS)
    assert {scene.sound for scene in SCENES} == {*SOUNDING, None}
    matches = [scene.sound_matches for scene in SCENES if scene.sound]
    assert 0.45 < sum(map(bool, matches)) / len(matches) < 0.55


def test_scenes_obey_their_relation():
    for scene in SCENES:
        assert len(scene.groups) == (1 if scene.relation == "alone" else 2)
        assert len(set(scene.things)) == len(scene.things)
        if scene.relation == "beside":
            assert scene.groups[0].motion == scene.groups[1].motion
            assert all(group.count <= MAX_COUNT_BESIDE for group in scene.groups)


@pytest.mark.parametrize("kind", ["video", "image", "audio"])
def test_kind_of_a_scene_is_the_kind_asked_for(kind):
    for seed in range(200):
        scene = scene_from_seed(seed, kind)
        assert scene.kind == kind
        json.dumps(scene.facts())
        if kind == "image":
            assert scene.sound is None
            assert {group.motion for group in scene.groups} == {"still"}
        if kind == "audio":
            assert scene.sound in SOUNDING
            assert scene.groups == ()


def test_weights_choose_the_cases():
    rng = random.Random(0)
    for _ in range(50):
        scene = sample_scene(
            rng,
            relation_weights={"then": 1},
            count_weights={4: 1},
            motion_weights={"up": 1},
            sound_weights={"match": 1},
            seconds=2.0,
        )
        assert scene.relation == "then"
        assert {(group.count, group.motion) for group in scene.groups} == {(4, "up")}
        assert scene.sound_matches
        assert scene.seconds == 2.0


def test_impossible_facts_are_refused():
    dog, cat = Group("dog", "red"), Group("cat", "red")
    with pytest.raises(OptionError, match=r"'cow' is unknown; known: dog"):
        Group("cow", "red")
    with pytest.raises(OptionError, match="colour"):
        Group("dog", "pink")
    with pytest.raises(OptionError, match="count"):
        Group("dog", "red", 5)
    with pytest.raises(OptionError, match="does not fit"):
        Scene((dog, cat))
    with pytest.raises(OptionError, match="different things"):
        Scene((dog, dog), relation="then")
    with pytest.raises(OptionError, match="one motion"):
        Scene((dog, dataclasses.replace(cat, motion="up")), relation="beside")
    with pytest.raises(OptionError, match="neither"):
        Scene(())
    with pytest.raises(OptionError, match="sound"):
        Scene((dog,), sound="ball")
    with pytest.raises(OptionError, match="seconds"):
        Scene((dog,), sound="dog", seconds=0.0)
    with pytest.raises(OptionError, match="seed"):
        Scene((dog,), seed=-1)
    with pytest.raises(OptionError, match="kind"):
        sample_scene(random.Random(0), "film")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="weight above 0"):
        sample_scene(random.Random(0), motion_weights={"up": 0})
