"""The sound of each thing, made from sines, wavetables, noise and envelopes.

Every sound goes on for as long as it is asked to, so that any two seconds of it tell what it is.
Pitch, tempo, timbre, loudness and the noise of the surroundings are drawn anew each time.
Shapes: N samples; everything is float32.
"""

from collections.abc import Callable

import numpy as np

from video_llama.data.world.scene import Scene
from video_llama.data.world.synth import Maker, formant
from video_llama.data.world.things import SOUNDING
from video_llama.errors import OptionError

SAMPLE_RATE = 16_000  # samples a second
PEAK = (0.3, 0.9)  # loudest sample of a sound


def render_sound(
    scene_or_thing: Scene | str,
    seconds: float | None = None,
    rate: int = SAMPLE_RATE,
    rng: np.random.Generator | None = None,
) -> np.ndarray:
    """The sound of a scene or of a thing, by name: (N,) float32 in [-1, 1], N = seconds * rate.

    A scene sounds for its own `seconds` and always the same, unless these are given. A thing needs
    `seconds`; without `rng` it sounds the same each time. Raises OptionError for a scene without
    sound, a silent thing, a rate below 8000 and a length of nothing.
    """
    if isinstance(scene_or_thing, Scene):
        thing, seed = scene_or_thing.sound, scene_or_thing.seed
        seconds = scene_or_thing.seconds if seconds is None else seconds
    else:
        thing, seed = scene_or_thing, 0
    if thing not in SOUNDS:
        what = "this scene has no sound" if thing is None else f"{thing!r} makes no sound"
        raise OptionError(f"{what}; what can be heard: {', '.join(SOUNDING)}")
    if not seconds or seconds <= 0 or rate < 8000:
        raise OptionError(
            f"a sound needs seconds above 0 and a rate from 8000; got {seconds} and {rate}"
        )
    rng = rng if rng is not None else np.random.default_rng([seed, 1])
    maker = Maker(round(seconds * rate), rate, rng)
    sound = SOUNDS[thing](maker)
    sound *= 1.0 / max(1e-6, float(np.abs(sound).max()))
    sound += maker.noise(maker.n) * np.float32(10 ** rng.uniform(-3.2, -1.9))
    sound *= rng.uniform(*PEAK) / float(np.abs(sound).max())
    return sound


def _dog(m: Maker) -> np.ndarray:
    pitch, length = m.uniform(320, 620), m.uniform(0.11, 0.2)
    mouth = m.uniform(850, 1400)
    rough = m.uniform(0.25, 0.5)

    def bark() -> np.ndarray:
        n = int(length * m.uniform(0.85, 1.15) * m.rate)
        x = np.linspace(0, 1, n, dtype=np.float32)
        hertz = pitch * (0.75 + 0.45 * np.sin(np.pi * x**0.6))
        voice = m.tone(hertz, n, formant(pitch, 12, [(mouth, 350), (2 * mouth, 500)], 0.3))
        voice = voice / np.abs(voice).max() + rough * m.noise(n, 0.6 * mouth, 2.2 * mouth)
        return voice * m.bump(n, 0.12, 1.6)

    if m.rng.random() < 0.5:
        return m.repeat(bark, (0.36, 0.62), 0.15)
    gap = m.uniform(0.2, 0.27)

    def pair() -> np.ndarray:
        out = np.zeros(int((gap + 0.3) * m.rate), np.float32)
        m.add(out, bark(), 0.0)
        m.add(out, bark(), gap)
        return out

    return m.repeat(pair, (0.75, 1.05), 0.1)


def _cat(m: Maker) -> np.ndarray:
    pitch, length = m.uniform(420, 720), m.uniform(0.6, 0.95)
    rise = m.uniform(1.25, 1.55)

    def meow() -> np.ndarray:
        n = int(length * m.uniform(0.9, 1.1) * m.rate)
        x = np.linspace(0, 1, n, dtype=np.float32)
        shape = np.interp(x, [0, 0.3, 0.6, 1], [1, rise, 0.97 * rise, 0.8]).astype(np.float32)
        wobble = 1 + 0.012 * np.sin(2 * np.pi * m.uniform(5, 8) * m.time(n))
        hertz = pitch * shape * wobble
        bright = m.tone(hertz, n, formant(pitch, 9, [(2.4 * pitch, 500), (3200, 700)], 0.2))
        dark = m.tone(hertz, n, formant(pitch, 9, [(1.2 * pitch, 400)], 0.8))
        mouth = np.sin(np.pi * x).clip(0) ** 0.7
        mixed = bright / np.abs(bright).max() * mouth + dark / np.abs(dark).max() * (1 - mouth)
        return mixed * m.bump(n, 0.22, 0.8)

    return m.repeat(meow, (1.0, 1.35), 0.08)


def _bird(m: Maker) -> np.ndarray:
    low, sweep = m.uniform(2200, 3400), m.uniform(1.35, 1.8)
    length, beat = m.uniform(0.05, 0.09), m.uniform(0.1, 0.15)
    count = int(m.rng.integers(3, 7))
    falling = m.rng.random() < 0.25

    def chirps() -> np.ndarray:
        out = np.zeros(int((count * beat + length) * m.rate), np.float32)
        n = int(length * m.rate)
        x = np.linspace(0, 1, n, dtype=np.float32)
        for i in range(count):
            hertz = low * m.uniform(0.94, 1.06) * sweep ** (1 - x if falling else x)
            m.add(out, m.tone(hertz, n, (1.0, 0.1)) * m.bump(n, 0.3), i * beat, m.uniform(0.7, 1.0))
        return out

    return m.repeat(chirps, (count * beat + 0.12, count * beat + 0.4), 0.1)


def _car(m: Maker) -> np.ndarray:
    t = m.time(m.n)
    base = m.uniform(48, 95)
    load = 1 + m.uniform(0.06, 0.2) * np.sin(
        2 * np.pi * (m.uniform(0.15, 0.5) * t + m.uniform(0, 1))
    )
    hertz = (base * load).astype(np.float32)
    engine = m.tone(hertz, m.n, [k**-0.9 * m.uniform(0.5, 1.0) for k in range(1, 15)])
    engine /= np.abs(engine).max()
    beat = 0.72 + 0.28 * m.tone(hertz / 4, m.n)
    return engine * beat + m.uniform(0.1, 0.2) * m.noise(m.n, 60, 500)


def _train(m: Maker) -> np.ndarray:
    low, high = m.uniform(400, 700), m.uniform(2200, 3800)
    beat = m.uniform(0.14, 0.24)

    def choo() -> np.ndarray:
        n = int(4 * beat * m.rate)
        out = np.zeros(n, np.float32)
        for i, gain in enumerate((1.0, 0.5, 0.75, 0.5)):
            puff = m.noise(int(0.85 * beat * m.rate), low, high)
            m.add(out, puff * m.bump(len(puff), 0.15, 1.3), i * beat, gain * 0.5)
        return out

    out = m.repeat(choo, (4 * beat, 4 * beat + 1e-6))
    pitch, length = m.uniform(290, 400), m.uniform(0.5, 0.8)

    def horn() -> np.ndarray:
        n = int(length * m.rate)
        tones = sum(m.tone(pitch * ratio, n, (1, 0.7, 0.5, 0.3, 0.2)) for ratio in (1.0, 1.26))
        return np.asarray(tones, np.float32) * m.bump(n, 0.08, 0.35)

    return out + m.uniform(0.3, 0.55) * m.repeat(horn, (1.5, 2.0), 0.1)


def _bell(m: Maker) -> np.ndarray:
    pitch, decay = m.uniform(650, 1250), m.uniform(0.35, 0.8)
    ratios = (0.5, 1.0, 1.19, 1.56, 2.0, 2.51, 2.66, 3.01)
    strengths = [m.uniform(0.4, 1.0) / (1 + 0.35 * i) for i in range(len(ratios))]
    n = int(1.6 * m.rate)
    t = m.time(n)
    stroke = np.zeros(n, np.float32)
    for ratio, strength in zip(ratios, strengths, strict=True):
        if pitch * ratio < 0.45 * m.rate:
            stroke += strength * np.exp(-t * (0.6 + 0.4 * ratio) / decay) * m.tone(pitch * ratio, n)
    return m.repeat(lambda: stroke, (0.55, 1.1), 0.05)


def _drum(m: Maker) -> np.ndarray:
    pitch, decay = m.uniform(58, 105), m.uniform(0.07, 0.14)
    n = int(0.45 * m.rate)
    t = m.time(n)
    thump = m.tone((pitch * (1 + 1.2 * np.exp(-t / 0.025))).astype(np.float32), n, (1.0, 0.25))
    thump *= np.exp(-t / decay)
    snap = m.uniform(0.08, 0.25) * m.noise(n, 150, m.uniform(900, 2200)) * np.exp(-t / 0.012)
    stroke = (thump + snap).astype(np.float32)
    beat = m.uniform(0.17, 0.3)
    pattern = ((0, 1, 2), (0, 2), (0, 1.5, 2), (0, 1, 2, 3), (0, 2, 3))[int(m.rng.integers(5))]

    def bar() -> np.ndarray:
        out = np.zeros(int((4 * beat + 0.5) * m.rate), np.float32)
        for place in pattern:
            m.add(out, stroke, place * beat, 1.0 if place == 0 else m.uniform(0.55, 0.85))
        return out

    return m.repeat(bar, (4 * beat, 4 * beat + 1e-6))


def _clock(m: Maker) -> np.ndarray:
    n = int(0.05 * m.rate)
    t = m.time(n)
    pitch = m.uniform(1700, 3000)
    decay = m.uniform(0.003, 0.007)

    def click(hertz: float) -> np.ndarray:
        ring = m.tone(hertz, n) + 0.6 * m.tone(hertz * 1.83, n)
        return (ring + 0.4 * m.noise(n)) * np.exp(-t / decay)

    tick, tock = click(pitch), click(pitch * m.uniform(0.6, 0.8))
    half = m.uniform(0.2, 0.42)

    def swing() -> np.ndarray:
        out = np.zeros(int((half + 0.06) * m.rate), np.float32)
        m.add(out, tick, 0.0)
        m.add(out, tock, half, 0.85)
        return out

    return m.repeat(swing, (2 * half, 2 * half + 1e-6))


def _bee(m: Maker) -> np.ndarray:
    t = m.time(m.n)
    base = m.uniform(170, 270)
    vibrato = 1 + m.uniform(0.02, 0.045) * np.sin(2 * np.pi * m.uniform(4, 8) * t)
    drift = 1 + m.uniform(0.03, 0.1) * np.sin(
        2 * np.pi * (m.uniform(0.3, 0.9) * t + m.uniform(0, 1))
    )
    hertz = (base * vibrato * drift).astype(np.float32)
    buzz = m.tone(hertz, m.n, [k**-0.55 * m.uniform(0.6, 1.0) for k in range(1, 25)])
    near = 0.65 + 0.35 * np.sin(2 * np.pi * (m.uniform(0.4, 1.4) * t + m.uniform(0, 1)))
    return (buzz / np.abs(buzz).max() * near).astype(np.float32)


def _phone(m: Maker) -> np.ndarray:
    low, ratio = m.uniform(750, 1150), m.uniform(1.2, 1.33)
    trill, on, off = m.uniform(15, 26), m.uniform(0.5, 0.9), m.uniform(0.18, 0.4)

    def ring() -> np.ndarray:
        n = int(on * m.rate)
        first = (m.time(n) * trill) % 1 < 0.5
        hertz = np.where(first, low, low * ratio).astype(np.float32)
        return m.tone(hertz, n, (1.0, 0.0, 0.35, 0.0, 0.15)) * m.bump(n, 0.03, 0.1)

    return m.repeat(ring, (on + off, on + off + 1e-6))


def _frog(m: Maker) -> np.ndarray:
    pitch, pulses, length = m.uniform(330, 620), m.uniform(24, 42), m.uniform(0.2, 0.36)

    def croak() -> np.ndarray:
        n = int(length * m.rate)
        t = m.time(n)
        beat = (t * pulses * (1 + 0.25 * t / length)) % 1
        voice = m.tone(pitch, n, formant(pitch, 6, [(pitch, 150), (2.6 * pitch, 400)], 0.2))
        return voice / np.abs(voice).max() * np.exp(-4.5 * beat) * m.bump(n, 0.35, 0.6)

    if m.rng.random() < 0.5:
        return m.repeat(croak, (length + 0.08, length + 0.28), 0.1)
    gap = length + 0.05

    def double() -> np.ndarray:
        out = np.zeros(int((gap + length) * m.rate) + 1, np.float32)
        m.add(out, croak(), 0.0, 0.8)
        m.add(out, croak(), gap)
        return out

    return m.repeat(double, (2 * length + 0.25, 2 * length + 0.5), 0.08)


def _trumpet(m: Maker) -> np.ndarray:
    root = m.uniform(230, 420)
    scale = (1.0, 1.125, 1.25, 1.5, 1.667, 2.0)
    beat = m.uniform(0.2, 0.34)
    slope = m.uniform(0.25, 0.55)

    def note() -> np.ndarray:
        n = int(beat * float(m.rng.choice((1.0, 1.0, 2.0))) * m.rate)
        hertz = root * scale[int(m.rng.integers(len(scale)))]
        x = np.linspace(0, 1, n, dtype=np.float32)
        full = m.tone(hertz, n, [k**-slope for k in range(1, 14)])
        soft = m.tone(hertz, n, (1.0, 0.6, 0.3))
        edge = np.minimum(1, x / 0.25)
        tone = full / np.abs(full).max() * edge + 0.6 * soft / np.abs(soft).max() * (1 - edge)
        return tone * m.bump(n, 0.1, 0.25)

    out = np.zeros(m.n, np.float32)
    start = -m.uniform(0, beat)
    while start < m.seconds:
        played = note()
        m.add(out, played, start, m.uniform(0.85, 1.0))
        start += len(played) / m.rate
    return out


SOUNDS: dict[str, Callable[[Maker], np.ndarray]] = {
    "dog": _dog,
    "cat": _cat,
    "bird": _bird,
    "car": _car,
    "train": _train,
    "bell": _bell,
    "drum": _drum,
    "clock": _clock,
    "bee": _bee,
    "phone": _phone,
    "frog": _frog,
    "trumpet": _trumpet,
}
