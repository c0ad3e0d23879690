from dataclasses import replace

import numpy as np
import pytest

from video_llama.data.world.draw import render_frames, render_masks
from video_llama.data.world.scene import Group, Scene, scene_from_seed
from video_llama.data.world.things import COLOURS, MOTIONS, THINGS
from video_llama.errors import OptionError


def centre(mask: np.ndarray) -> np.ndarray:
    """Centre of a mask (H, W) as (x, y), in shares of its width and height."""
    y, x = np.nonzero(mask > 127)
    return np.array([x.mean() / mask.shape[1], y.mean() / mask.shape[0]])


def blobs(mask: np.ndarray) -> int:
    """Number of connected pieces of a mask that are not mere specks."""
    left = mask.copy()
    pieces = []
    while left.any():
        piece = np.zeros_like(left)
        piece[np.unravel_index(left.argmax(), left.shape)] = True
        while True:
            grown = piece.copy()
            grown[1:] |= piece[:-1]
            grown[:-1] |= piece[1:]
            grown[:, 1:] |= piece[:, :-1]
            grown[:, :-1] |= piece[:, 1:]
            grown &= left
            if grown.sum() == piece.sum():
                break
            piece = grown
        pieces.append(int(piece.sum()))
        left &= ~piece
    return sum(size > 0.25 * max(pieces) for size in pieces)


def test_frames_are_the_same_each_time_and_whichever_are_asked_for():
    for seed in range(8):
        scene = scene_from_seed(seed)
        frames = render_frames(scene)
        assert frames.shape == (8, 64, 64, 3)
        assert frames.dtype == np.uint8
        np.testing.assert_array_equal(frames, render_frames(scene, num_frames=8))
        np.testing.assert_array_equal(frames[[5]], render_frames(scene, times=[5 / 8]))
        assert (render_frames(replace(scene, seed=seed + 1)) != frames).any()
    assert render_frames(scene_from_seed(0, "image"), (96, 48)).shape == (1, 48, 96, 3)


@pytest.mark.parametrize("motion", MOTIONS)
@pytest.mark.parametrize("seed", range(6))
def test_things_move_as_the_facts_say(motion, seed):
    group = Group(list(THINGS)[seed], "red", 1 + seed % 4, motion)
    masks = render_masks(Scene((group,), seed=seed))[:, 0]
    first, last = centre(masks[0]), centre(masks[-1])
    growth = (masks[-1] > 127).sum() / (masks[0] > 127).sum()
    x, y = last - first
    expected = {"left": -x, "right": x, "up": -y, "down": y}
    if motion in expected:
        assert expected[motion] > 0.3
        assert min(abs(x), abs(y)) < 0.03
        assert 0.8 < growth < 1.25
    elif motion == "still":
        assert max(abs(x), abs(y)) < 0.01
    else:  # the side grows by at least 1.8
        assert (growth if motion == "closer" else 1 / growth) > 1.8**2 * 0.85


def test_things_stay_in_the_frame():
    for seed in range(40):
        masks = render_masks(scene_from_seed(seed), (160, 120))
        seen = masks.max(axis=(0, 1)) > 127
        assert not (seen[0].any() and seen[-1].any() and seen[:, 0].any() and seen[:, -1].any())
        area = (masks > 127).sum(axis=(2, 3))
        for index, group in enumerate(scene_from_seed(seed).groups):
            shown = area[area[:, index] > 0, index]
            if group.motion in ("left", "right", "up", "down"):
                assert shown.min() > 0.85 * shown.max()


@pytest.mark.parametrize("relation", ["then", "beside"])
def test_two_groups_are_in_their_time_and_place(relation):
    for seed in range(12):
        a, b = Group("dog", "red", 2, "left"), Group("bell", "blue", 1, "left")
        masks = render_masks(Scene((a, b), relation=relation, seed=seed))
        there = (masks > 127).any(axis=(2, 3))
        if relation == "then":
            assert there.T.tolist() == [[True] * 4 + [False] * 4, [False] * 4 + [True] * 4]
        else:
            assert there.all()
            assert all(centre(m[0])[0] < centre(m[1])[0] for m in masks)


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_as_many_things_as_the_facts_say(count):
    for seed in range(6):
        thing = ("dog", "car", "ball", "star", "house", "phone")[seed]
        scene = Scene((Group(thing, "blue", count),), seed=seed)
        assert blobs(render_masks(scene, 128, times=[0.0])[0, 0] > 127) == count


@pytest.mark.parametrize("thing", THINGS)
def test_the_named_colour_is_the_nearest_of_most_pixels(thing):
    bodies = np.array(list(COLOURS.values()), np.float32)
    for number, colour in enumerate(COLOURS):
        scene = Scene((Group(thing, colour),), seconds=0.0, seed=number)
        inside = render_frames(scene)[0][render_masks(scene)[0, 0] == 255].astype(np.float32)
        distance = np.linalg.norm(inside[:, None] - bodies, axis=2)
        # Outlines, windows and shades are near to none.
        votes = np.bincount(distance.argmin(1)[distance.min(1) < 60], minlength=len(bodies))
        assert list(COLOURS)[votes.argmax()] == colour


def test_the_ground_is_never_of_the_colour_of_a_thing():
    for seed in range(60):
        scene = scene_from_seed(seed)
        frame, mask = render_frames(scene, times=[0.0])[0], render_masks(scene, times=[0.0])[0]
        ground = frame[mask.max(axis=0) == 0].astype(np.float32)
        for group in scene.groups:
            far = np.linalg.norm(ground - np.array(COLOURS[group.colour], np.float32), axis=1) > 60
            assert far.mean() > 0.97


def test_bad_sizes_and_times_are_refused():
    scene = scene_from_seed(0)
    with pytest.raises(OptionError, match="sound alone"):
        render_frames(scene_from_seed(0, "audio"))
    with pytest.raises(OptionError, match="16 pixels"):
        render_frames(scene, 8)
    for times in ([], [1.0], [-0.1]):
        with pytest.raises(OptionError, match="moments"):
            render_frames(scene, times=times)
