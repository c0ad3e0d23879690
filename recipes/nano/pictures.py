"""The pictures that encoders learn from: frames of scenes, and photographs, roughened."""

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional as F

from recipes.nano.loop import DEVICE, mixed_precision, normal, uniform
from recipes.nano.material import Material, photographs
from recipes.nano.render import COVERED, GRID, pixels, render
from recipes.nano.settings import IMAGE_SIZE
from video_llama.data.world.things import NAMED

ENCODED = 256  # photographs at once
CUT_OUT = 40  # pixels of a thing before it is pasted
COARSE, CRISP = 0.25, 0.4  # of sharp photographs, made coarse; of coarse ones, made crisp
MIXED = 0.5  # of the photographs and recordings for encoders: another one shines through


def flat_frames(material: Material) -> tuple[np.ndarray, ...]:
    """Frames of scenes (N, S, S, 3), their facts (N, 12) and things by patch (N, 16)."""
    frames, facts, patches = (np.asarray(array) for array in render("frames", material))
    return tuple(array.reshape(-1, *array.shape[2:]) for array in (frames, facts, patches))


def lone_things(facts: np.ndarray) -> np.ndarray:
    """Indices of frames in which one kind of thing is seen."""
    return np.nonzero((facts[:, 0] >= 0) & (facts[:, 6] < 0))[0]


def jitter(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A little light, contrast and noise on normalised pixels (B, ..., 3, H, W)."""
    shape = (x.shape[0], *[1] * (x.ndim - 1))
    light = 0.08 * normal(shape, generator)
    contrast = 1 + 0.06 * normal(shape, generator)
    return x * contrast + light + 0.03 * normal(x.shape, generator)


def crop(x: torch.Tensor, size: int, generator: torch.Generator) -> torch.Tensor:
    """Photographs (B, 3, H, W) cropped, mirrored, of a little other light: (B, 3, size, size)."""
    count = len(x)
    share = (0.5 + 0.5 * uniform((count,), generator)).sqrt()
    aspect = (0.28 * (uniform((count,), generator) - 0.5)).exp()
    width, height = (share * aspect).clamp(max=1), (share / aspect).clamp(max=1)
    mirror = torch.where(uniform((count,), generator) < 0.5, -1.0, 1.0)
    theta = x.new_zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = width * mirror, height
    theta[:, 0, 2] = (1 - width) * (2 * uniform((count,), generator) - 1)
    theta[:, 1, 2] = (1 - height) * (2 * uniform((count,), generator) - 1)
    grid = F.affine_grid(theta, [count, 3, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="reflection", align_corners=False)
    one = (count, 1, 1, 1)
    return x * (1 + 0.1 * normal(one, generator)) + 0.1 * normal(one, generator)


def loosen(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Photographs (B, 3, S, S) tinted, some grey or partly covered."""
    count, size = len(x), x.shape[-1]
    one, three = (count, 1, 1, 1), (count, 3, 1, 1)
    x = x * (1 + 0.22 * normal(one, generator)) + 0.22 * normal(one, generator)
    x = x + 0.12 * normal(three, generator)
    grey = x.mean(1, keepdim=True)
    x = torch.where(uniform(one, generator) < 0.1, grey, x)
    rows = torch.arange(size, device=x.device)
    side = size * (0.15 + 0.25 * uniform((2, count, 1), generator))
    start = size * uniform((2, count, 1), generator) - side / 2
    inside = (rows >= start) & (rows < start + side)  # (2, B, S)
    covered = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return x.masked_fill(covered & (uniform(one, generator) < 0.2), 0.0)


def as_sharp_as_any(
    x: torch.Tensor, sharp: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Photographs (B, 3, S, S) as they are, and some of the `sharp` ones (B,) made coarse, some of
    the others crisp.

    Most things are known from photographs of one kind, and how sharp one is would say which.
    """
    count, size = len(x), x.shape[-1]
    one = (count, 1, 1, 1)
    side = round(size * (0.36 + 0.24 * uniform((1,), generator).item()))
    low = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
    coarse = F.interpolate(low, size=(size, size), mode="bicubic")
    around = F.pad(x, (2, 2, 2, 2), mode="replicate")
    edges = x - F.avg_pool2d(F.avg_pool2d(around, 3, stride=1), 3, stride=1)
    rising = edges.mean(1, keepdim=True) > 0
    # Steep edges: of what is near the largest or the smallest (Osher and Rudin 1990).
    steep = torch.where(rising, F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1))
    crisp = (x + 3 * uniform(one, generator) * edges).lerp(steep, 0.7 * uniform(one, generator))
    fine = sharp[:, None, None, None]
    changed = uniform(one, generator) < torch.where(fine, COARSE, CRISP)
    return torch.where(changed, torch.where(fine, coarse, crisp), x)


def mixed(
    x: torch.Tensor, things: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photographs or mel clips (B, C, H, W) and things (B,) -> the same with another one shining
    through, what that shows (B,), and how much of it (B,): up to a half in MIXED of them.

    (Zhang et al. 2018, arXiv 1710.09412.)
    """
    second = torch.randperm(len(x), generator=generator).to(x.device)
    share = 0.5 * uniform((len(x),), generator)
    share = torch.where(uniform((len(x),), generator) < MIXED, share, 0.0)
    return x + share[:, None, None, None] * (x[second] - x), things[second], share


def both_names(
    logits: torch.Tensor,
    things: torch.Tensor,
    others: torch.Tensor,
    shares: torch.Tensor,
    smoothing: float,
) -> torch.Tensor:
    """The mean loss of logits (B, N) for things (B,), of which others (B,) have their share."""
    losses = [
        F.cross_entropy(logits, names, label_smoothing=smoothing, reduction="none")
        for names in (things, others)
    ]
    return losses[0].lerp(losses[1], shares).mean()


class PhotographBatches:
    """Endless batches of photographs: those there are few of, of a thing and as sharp, come more
    often than they are, and sharp ones twice as often as others, for those of users are sharp."""

    def __init__(self, material: Material, names: tuple[str, ...], seed: int) -> None:
        self.photographs = photographs(material)
        found = self.photographs.of_name
        self.index = np.concatenate([found[name] for name in names if name in found])
        labels, sharp = self.photographs.labels[self.index], self.photographs.sharp[self.index]
        kinds = 2 * labels.astype(np.int64) + sharp
        counts = np.bincount(kinds, minlength=2 * len(NAMED))
        self.weights = torch.from_numpy(counts[kinds] ** -0.5 * (1 + sharp))
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int, size: int = IMAGE_SIZE) -> tuple[torch.Tensor, torch.Tensor]:
        """Cropped pixels (count, 3, size, size) and things (count,)."""
        chosen = torch.multinomial(self.weights, count, generator=self.generator).sort().values
        index = self.index[chosen.numpy()]
        x = crop(pixels(self.photographs.pixels[index]), size, self.generator)
        if size > CUT_OUT:  # all are sharp if they are smaller
            sharp = torch.from_numpy(self.photographs.sharp[index]).to(DEVICE)
            x = as_sharp_as_any(x, sharp, self.generator)
        return x, torch.from_numpy(self.photographs.labels[index].astype(np.int64)).to(DEVICE)

    @torch.no_grad()
    def encoded(
        self, encoder: Callable[[torch.Tensor], torch.Tensor], count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What a frozen encoder says of about `count` of them, in half precision, and their things.

        They are loosened: of a photograph as it is, an encoder that has learnt it is surer than it
        will ever be of a new one.
        """
        states, labels = [], []
        at_once = min(ENCODED, len(self.index))
        with mixed_precision():
            for _ in range(count // at_once):
                x, things = self.draw(at_once)
                encoded = encoder(loosen(x, self.generator)).float()
                states.append(encoded.cpu().numpy().astype(np.float16))
                labels.append(things.cpu().numpy())
        return np.concatenate(states), np.concatenate(labels)

    def mosaics(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Four photographs in each picture (count, 3, S, S), and things by patch (count, 16).

        In scenes things are no larger than that.
        """
        x, things = self.draw(4 * count, IMAGE_SIZE // 2)
        # Draws are in the order of the file: neighbours are alike, and must not share a picture.
        mixed = torch.randperm(len(x), generator=self.generator).to(x.device)
        x, things = x[mixed].unflatten(0, (count, 2, 2)), things[mixed].view(count, 2, 2)
        x = x.permute(0, 3, 1, 4, 2, 5).reshape(count, 3, IMAGE_SIZE, IMAGE_SIZE)
        half = GRID // 2
        return x, things.repeat_interleave(half, 1).repeat_interleave(half, 2).flatten(1)

    def pasted(self, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """A cut-out on a ground in each picture (count, 3, S, S), facts (count, 12) and things by
        patch (count, 16).

        Other ones every time, where a rendered frame is met again and known by heart.
        """
        x, things = self.draw(count, CUT_OUT)
        ground, _ = self.draw(count, IMAGE_SIZE)
        one = (count, 1, 1, 1)
        vague = F.avg_pool2d(ground, IMAGE_SIZE // 8)
        vague = F.interpolate(vague, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
        plain = normal((count, 3, 1, 1), self.generator)
        ground = torch.where(uniform(one, self.generator) < 0.3, plain, vague)
        half = 0.3 + 0.4 * uniform((count,), self.generator)  # half the side, of half the frame
        middle = (1 - 0.8 * half) * (2 * uniform((2, count), self.generator) - 1)
        theta = x.new_zeros(count, 2, 3)
        theta[:, 0, 0] = theta[:, 1, 1] = 1 / half
        theta[:, :, 2] = (-middle / half).T
        grid = F.affine_grid(theta, [count, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
        placed = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
        power = torch.where(uniform(one, self.generator) < 0.33, 4.0, 2.0)
        sides = 0.85 + 0.15 * uniform((count, 1, 1, 2), self.generator)
        radius = (grid / sides).abs().pow(power).sum(-1, keepdim=True).movedim(-1, 1)
        alpha = ((1 - radius) / 0.15).clamp(0, 1)
        covered = F.avg_pool2d(alpha, IMAGE_SIZE // GRID).flatten(1)
        patches = torch.where(covered >= COVERED, things[:, None], -1)
        facts = things.new_full((count, 12), -1.0, dtype=torch.float32)
        facts[:, 0], facts[:, 2] = things, 0
        facts[:, 3:5] = (middle.T + 1) / 2
        facts[:, 5] = half
        return ground + alpha * (placed - ground), facts, patches
