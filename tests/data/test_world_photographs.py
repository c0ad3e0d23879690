"""Scenes with things that are photographed: their words, and a look from outside."""

import itertools
import random

import numpy as np
import pytest
from PIL import Image

from video_llama.data.world.draw import DRAWN, render_frames, render_masks
from video_llama.data.world.photographs import PhotographLook, cut_out, pictured, recorded
from video_llama.data.world.questions import questions, score
from video_llama.data.world.scene import Group, Scene, sample_scene
from video_llama.data.world.things import AUDIBLE, NAMED, PHOTOGRAPHED, SOUNDING, THINGS
from video_llama.errors import OptionError

KINDS = ("video", "image", "audio")
HORSES = Scene((Group("horse", None, 2, "left"),), sound="cow", seed=1)
SEA = Scene((Group("sea", None),), sound="sea", seed=1)


def scenes(count: int, photographs: float = 0.6) -> list[Scene]:
    rng = random.Random(0)
    return [
        sample_scene(rng, rng.choice(KINDS), photographs=photographs, audible=AUDIBLE)
        for _ in range(count)
    ]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_answer_is_scored_as_right_and_other_answers_as_wrong(language):
    rng = random.Random(1)
    for scene in scenes(600):
        for qa in questions(scene, language, rng=rng):
            assert score(qa, qa.answer), qa
            assert not score(qa, ""), qa


def test_vocabulary():
    assert set(NAMED) == set(THINGS) | set(PHOTOGRAPHED)
    assert set(SOUNDING) <= set(AUDIBLE)
    chinese = [thing.chinese for thing in NAMED.values()]
    assert len(set(chinese)) == len(chinese)
    assert all(thing.measure and thing.plural for thing in NAMED.values())
    assert all(bool(thing.sound) == bool(thing.sound_zh) for thing in NAMED.values())


@pytest.mark.parametrize(
    ("scene", "kind", "english", "chinese"),
    [
        (HORSES, "object", "Two horses.", "两匹马。"),
        (
            HORSES,
            "colour",
            "I cannot tell the colour of the horses.",
            "我说不出颜色：马。",
        ),
        (HORSES, "describe", "Two horses move left.", "两匹马向左移动。"),
        (HORSES, "sound", "I hear a cow mooing.", "我听到牛在叫。"),
        (SEA, "object", "The sea.", "一片大海。"),
        (
            SEA,
            "both",
            "I see the sea and I hear the sea rolling.",
            "我看到一片大海，听到大海在翻滚。",
        ),
        (
            Scene((Group("airplane", None),), seconds=0.0),
            "presence",
            "Yes, there is an airplane.",
            "是的，有一架飞机。",
        ),
    ],
)
def test_wording(scene, kind, english, chinese):
    for language, expected in (("en", english), ("zh", chinese)):
        found = {
            qa.answer
            for seed in range(8)
            for qa in questions(scene, language, kinds=[kind], rng=random.Random(seed))
        }
        assert expected in found


def test_what_is_seen_keeps_to_the_rules():
    for scene in scenes(600):
        for group in scene.groups:
            assert (group.colour is None) <= (group.thing in PHOTOGRAPHED)
            assert (group.thing not in THINGS) <= (group.colour is None)
        if any(NAMED[name].scenery for name in scene.things):
            (group,) = scene.groups
            assert (group.count, group.motion) == (1, "still")
            kinds = {qa.kind for qa in questions(scene)}
            assert not kinds & {"count", "motion"}


def test_the_worlds_own_scenes_never_speak_of_what_it_cannot_draw():
    for scene in scenes(300, photographs=0.0):
        if scene.all_drawn:
            for qa in questions(scene, "en"):
                text = f"{qa.question} {qa.answer}".lower()
                assert not any(f" {name}" in text for name in set(PHOTOGRAPHED) - set(THINGS))


@pytest.mark.parametrize(
    ("thing", "colour", "count", "message"),
    [("star", None, 1, "star"), ("horse", "red", 1, "horse"), ("sea", None, 2, "fills")],
)
def test_groups_that_cannot_be(thing, colour, count, message):
    with pytest.raises(OptionError, match=message):
        Group(thing, colour, count)


class PlainLook:
    """A grey square for a photograph, on white."""

    def sprite(self, group, pixels, rng):
        if group.colour is not None:
            return DRAWN.sprite(group, pixels, rng)
        return Image.new("RGBA", (pixels, pixels), (90, 90, 90, 255))

    def ground(self, scene, width, height, rng):
        return np.full((height, width, 3), 255, np.uint8)


def test_a_look_from_outside_moves_as_drawings_do():
    look = PlainLook()
    frames = render_frames(HORSES, 64, look=look)
    masks = render_masks(HORSES, 64, look=look)
    assert frames.shape == (8, 64, 64, 3)
    x = [np.nonzero(mask[0] > 127)[1].mean() for mask in masks]
    assert all(later < earlier for earlier, later in itertools.pairwise(x))
    assert frames[masks[:, 0] > 200].mean() < 120  # grey where the things are
    assert frames[masks[:, 0] == 0].mean() > 200


def test_the_world_draws_no_photographs_itself():
    with pytest.raises(OptionError, match="horse"):
        render_frames(HORSES, 64)


def test_labels_have_names_or_none():
    assert pictured("cellphone") == "phone"
    assert pictured("horse") == "horse"
    assert pictured("stapler") is None
    assert recorded("speech") == "person"
    assert recorded("fire") is None
    assert recorded("bell") is None  # the world's own


def test_a_thing_is_cut_out_of_a_plain_ground() -> None:
    pixels = np.full((72, 72, 3), 240, np.uint8)
    pixels[20:50, 15:60] = (40, 90, 30)
    alpha = np.asarray(cut_out(Image.fromarray(pixels), random.Random(0)).getchannel("A"))
    assert alpha[35, 40] > 200
    assert alpha[5, 5] == 0
    noise = np.random.default_rng(0).integers(0, 255, (72, 72, 3), np.uint8)
    oval = np.asarray(cut_out(Image.fromarray(noise), random.Random(0)).getchannel("A"))
    assert oval[36, 36] == 255
    assert oval[0, 0] == 0


def test_photographs_move_over_photographed_grounds():
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    asked = []

    def draw(name, rng):
        asked.append(name)
        return Image.fromarray(noise)

    look = PhotographLook(draw, ["horse", "sea"])
    grounds = []
    for seed in range(8):
        scene = Scene((Group("horse", None, 1, "right"),), seed=seed)
        frames = render_frames(scene, 64, look=look)
        again = render_frames(scene, 64, look=look)
        assert (frames == again).all()
        grounds.append(frames[0, :4].astype(float).std())
    assert set(asked) == {"horse", "sea"}
    assert max(grounds) > 5
