"""Sound: the right tone, in the right channel, at the right time."""

import io
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from make import Film, Tone, sine, write

from video_llama.errors import CorruptMediaError
from video_llama.media.reader import load_media, probe

RATE = 16_000
SOUND_ONLY = Film(count=0)


def spectrum_peak(sound: np.ndarray) -> float:
    """The strongest frequency in Hz."""
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound))))
    return float(np.argmax(spectrum) * RATE / len(sound))


@pytest.mark.parametrize(
    ("container", "codec", "rate"),
    [
        ("mp4", "aac", 44_100),
        ("mp4", "aac", 8000),
        ("mp3", "libmp3lame", 48_000),
        ("flac", "flac", 96_000),
        ("ogg", "vorbis", 44_100),
        ("webm", "libopus", 48_000),
        ("wav", "pcm_s16le", 192_000),
        ("wav", "pcm_u8", 11_025),
        ("wav", "pcm_s24le", 22_050),
        ("wav", "pcm_f32le", 16_000),
        ("wav", "pcm_f64le", 32_000),
        ("matroska", "ac3", 48_000),
        ("mp4", "alac", 44_100),
        ("mpegts", "mp2", 44_100),
        ("adts", "aac", 44_100),
        ("aiff", "pcm_s16be", 44_100),
    ],
)
def test_a_tone_of_any_codec_and_rate(container: str, codec: str, rate: int) -> None:
    tone = Tone(codec=codec, rate=rate, seconds=1.5)
    clip = load_media(write(replace(SOUND_ONLY, container=container, tones=(tone,))))
    assert clip.info.kind == "audio"
    assert clip.info.audio.rate == rate
    assert clip.info.duration == pytest.approx(1.5, abs=0.1)
    assert clip.frames is None
    assert clip.sound.dtype == np.float32
    assert clip.sound.shape[0] == 1
    assert clip.sound.shape[1] == pytest.approx(1.5 * RATE, abs=0.1 * RATE)
    middle = clip.sound[0, 4000:-4000]
    assert spectrum_peak(middle) == pytest.approx(440, abs=3) or spectrum_peak(
        middle
    ) == pytest.approx(880, abs=3)
    assert not clip.silent


def stereo() -> bytes:
    tone = Tone(codec="pcm_s16le", rate=RATE, seconds=1.0)
    return write(Film("wav", count=0, tones=(tone,)))


def test_channel_rules() -> None:
    left, right = sine(440, 1.0, RATE), sine(880, 1.0, RATE)
    mean = load_media(stereo()).sound
    assert np.abs(mean[0] - (left + right) / 2).max() < 1e-4
    first = load_media(stereo(), sound_channels="first").sound
    assert np.abs(first[0] - left).max() < 1e-4
    both = load_media(stereo(), sound_channels="all").sound
    assert np.abs(both - np.stack([left, right])).max() < 1e-4


def test_five_channels_and_one() -> None:
    hertz = (300.0, 400.0, 500.0, 600.0, 700.0, 800.0)
    tone = Tone("pcm_s16le", RATE, "5.1", 1.0, hertz=hertz)
    data = write(Film("wav", count=0, tones=(tone,)))
    waves = np.stack([sine(one, 1.0, RATE) for one in hertz])
    assert load_media(data).info.audio.channels == 6
    assert np.abs(load_media(data).sound[0] - waves.mean(axis=0)).max() < 1e-4
    assert np.abs(load_media(data, sound_channels="all").sound - waves).max() < 1e-4


def test_full_scale_is_one() -> None:
    for codec, step in (("pcm_u8", 1 / 100), ("pcm_s16le", 1e-3), ("pcm_s32le", 1e-4)):
        tone = Tone(codec, RATE, "mono", 1.0, level=1.0)
        peak = np.abs(load_media(write(Film("wav", count=0, tones=(tone,)))).sound).max()
        assert peak == pytest.approx(1.0, abs=step)


def test_absent_sound_is_a_value() -> None:
    clip = load_media(write(Film()))
    assert clip.sound is None
    assert clip.info.audio is None
    assert not clip.has_sound
    assert not clip.silent
    assert clip.warnings == ()


def test_digital_silence_is_a_sound() -> None:
    clip = load_media(write(Film(tones=(Tone(level=0.0),))))
    assert clip.has_sound
    assert clip.silent


def test_a_sound_that_starts_late_is_preceded_by_silence() -> None:
    tone = Tone("pcm_s16le", RATE, "mono", 1.0, start=1.5)
    clip = load_media(write(Film("matroska", tones=(tone,))))
    assert clip.sound_start == 0.0
    assert clip.sound.shape[1] == pytest.approx(2.5 * RATE, abs=32)
    assert np.abs(clip.sound[0, : int(1.49 * RATE)]).max() == 0
    assert spectrum_peak(clip.sound[0, int(1.6 * RATE) :]) == pytest.approx(440, abs=3)


def test_a_sound_that_starts_early_is_kept_and_dated() -> None:
    tone = Tone("pcm_s16le", RATE, "mono", 3.0)
    clip = load_media(write(Film("matroska", start=1.0, tones=(tone,))))
    assert clip.times[0] == 0.0
    assert clip.sound_start == pytest.approx(-1.0, abs=0.01)
    assert clip.sound.shape[1] == 3 * RATE


def test_a_hole_in_the_sound_keeps_the_time_of_what_follows() -> None:
    before = Tone("pcm_s16le", RATE, "mono", 1.0, hertz=(440.0,))
    import av

    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as output:
        stream = output.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for start in (0.0, 2.0):
            wave = (sine(440, before.seconds, RATE) * 32767).astype(np.int16)[None]
            frame = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            frame.sample_rate, frame.pts = RATE, round(start * RATE)
            for packet in stream.encode(frame):
                output.mux(packet)
        output.mux(stream.encode(None))
    sound = load_media(buffer.getvalue()).sound[0]
    assert len(sound) == pytest.approx(3 * RATE, abs=32)
    assert np.abs(sound[RATE + 50 : 2 * RATE - 50]).max() == 0
    assert np.abs(sound[2 * RATE + 50 :]).max() > 0.4


def test_less_than_a_window_is_no_sound() -> None:
    for samples, heard in ((399, False), (400, True)):
        tone = Tone("pcm_s16le", RATE, "mono", samples / RATE)
        clip = load_media(write(Film("wav", count=0, tones=(tone,))))
        assert clip.has_sound == heard
        assert heard or "too short" in clip.warnings[0]


def test_of_two_sound_tracks_one_is_used_and_it_is_said() -> None:
    tones = (Tone(hertz=(440.0,)), Tone(hertz=(1500.0,)))
    clip = load_media(write(Film("matroska", tones=tones)))
    assert spectrum_peak(clip.sound[0]) == pytest.approx(440, abs=3)
    assert any("2 audio tracks: number 1" in warning for warning in clip.warnings)


def damage(data: bytes, every: int) -> bytes:
    """Overwrite bytes inside the sound packets."""
    import av

    broken = bytearray(data)
    with av.open(io.BytesIO(data)) as container:
        for number, packet in enumerate(container.demux(audio=0)):
            if packet.size and packet.pos is not None and number % every == 0:
                broken[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    return bytes(broken)


def test_sound_that_does_not_decode_is_an_error_unless_asked() -> None:
    data = damage(write(Film(tones=(Tone(),))), every=1)
    with pytest.raises(CorruptMediaError, match="sound"):
        load_media(data)
    clip = load_media(data, on_bad_sound="warn")
    assert not clip.has_sound
    assert clip.frames is not None
    assert any("cannot be decoded" in warning for warning in clip.warnings)
    assert load_media(data, with_sound=False).warnings == ()


def test_some_damaged_packets_are_counted() -> None:
    clip = load_media(damage(write(Film(tones=(Tone(),))), every=10))
    assert clip.has_sound
    assert any("packets of the sound are damaged" in warning for warning in clip.warnings)


def test_values_that_are_no_numbers_become_silence() -> None:
    wave = sine(440, 0.5, RATE)
    wave[100:110] = np.nan
    data = write(Film("wav", count=0, tones=(Tone("pcm_f32le", RATE, "mono", 0.5),)))
    start = len(data) - wave.nbytes
    clip = load_media(data[:start] + wave.tobytes())
    assert np.isfinite(clip.sound).all()
    assert any("no numbers" in warning for warning in clip.warnings)


def test_probe_decodes_no_sound() -> None:
    info = probe(damage(write(Film(tones=(Tone(),))), every=1))
    assert info.audio.codec == "aac"


@pytest.mark.parametrize("samples", [24_000, 16_001, 44_100])
def test_an_ogg_file_cut_within_its_last_packet(samples: int) -> None:
    # libsndfile ends such a file before its last packet begins: the packet's length is negative.
    file = io.BytesIO()
    tone = sine(440.0, samples / RATE, RATE)
    soundfile.write(file, tone, RATE, format="OGG", subtype="VORBIS")
    clip = load_media(file.getvalue())
    assert clip.info.duration == pytest.approx(samples / RATE, abs=0.05)
    assert clip.sound.shape[1] == pytest.approx(samples, abs=600)
    assert probe(file.getvalue()).duration == pytest.approx(samples / RATE, abs=0.05)


def test_of_several_tracks_one_that_can_be_decoded_is_heard() -> None:
    """The first and marked one is of a kind without a decoder here, as Apple's spatial one."""
    tones = (Tone(codec="ac3", rate=48_000), Tone(rate=48_000))
    data = write(Film(tones=tones, count=10)).replace(b"ac-3", b"apac")
    assert load_media(data).sound is not None
