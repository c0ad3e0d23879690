"""Voices packed as labelled shards."""

import wave

import av
import numpy as np
import pytest

from recipes.nano import voices
from recipes.nano.material import RATE
from video_llama.data.labelled import read_labelled
from video_llama.media.reader import load_media


def write_word(path, hertz, seconds, rate=RATE, silence=0.5):
    """A tone between two silences."""
    tone = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    quiet = np.zeros(round(silence * rate))
    samples = (np.concatenate([quiet, tone, quiet]) * 32767).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())


def speaker(folder, hertz, words, **about):
    folder.mkdir()
    for number in range(words):
        write_word(folder / f"{number:02d}.wav", hertz, 1.2, **about)
    return folder


def test_voices_are_joined_to_stretches_and_read_as_speech(tmp_path):
    low = speaker(tmp_path / "low", 200, 9)
    high = speaker(tmp_path / "high", 900, 5, rate=8000)
    assert voices.pack([low, high], tmp_path / "shards") == 3
    items = list(read_labelled(tmp_path / "shards", "sounds", "train"))
    assert [item.label for item in items] == ["speech"] * 3
    assert [item.about["speaker"] for item in items] == ["low", "low", "high"]
    for item in items:
        sound = load_media(item.data, with_frames=False).sound
        assert sound.shape == (1, voices.SECONDS * RATE)
        # The silence around each word is gone: at least four fifths are heard.
        loud = np.abs(sound[0]).reshape(-1, RATE // 100).max(1) > 0.1
        assert loud.mean() > 0.8
        spectrum = np.abs(np.fft.rfft(sound[0]))
        peak = np.argmax(spectrum) / voices.SECONDS
        assert peak == pytest.approx(200 if item.about["speaker"] == "low" else 900, abs=2)


def test_no_voice_has_more_than_its_share(tmp_path, monkeypatch):
    monkeypatch.setattr(voices, "PER_SPEAKER", 2)
    assert voices.pack([speaker(tmp_path / "much", 300, 20)], tmp_path) == 2


def test_the_same_files_give_the_same_shard(tmp_path):
    folder = speaker(tmp_path / "one", 300, 9)
    shards = []
    for name in ("a", "b"):
        voices.pack([folder], tmp_path / name)
        shards.append((tmp_path / name / "sounds-voices-train-00.tar").read_bytes())
    assert shards[0] == shards[1]


def test_a_raw_stream_is_known_by_its_name(tmp_path):
    path = tmp_path / "word.g722"
    with av.open(str(path), "w", format="g722") as container:
        stream = container.add_stream("g722", rate=RATE)
        stream.layout = "mono"
        tone = (8000 * np.sin(2 * np.pi * 400 * np.arange(RATE) / RATE)).astype(np.int16)
        frame = av.AudioFrame.from_ndarray(tone[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        container.mux([*stream.encode(frame), *stream.encode(None)])
    samples = voices.decoded(path)
    assert len(samples) == pytest.approx(RATE, rel=0.02)
    assert np.argmax(np.abs(np.fft.rfft(samples, RATE))) == pytest.approx(400, abs=2)


def test_silence_is_left_out(tmp_path):
    write_word(tmp_path / "nothing.wav", 0, 1.0)
    assert len(voices.decoded(tmp_path / "nothing.wav")) == 0


def test_what_is_no_folder_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["voices", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(SystemExit):
        voices.main()
    assert "none is no folder" in capsys.readouterr().err


def test_what_is_no_sound_is_named(tmp_path):
    folder = speaker(tmp_path / "one", 300, 1)
    (folder / "README").write_text("words of one voice")
    with pytest.raises(SystemExit, match="README cannot be read as sound"):
        voices.pack([folder], tmp_path)
    assert not list(tmp_path.glob("*.tar"))


def test_a_voice_of_too_few_words_is_named(tmp_path):
    with pytest.raises(SystemExit, match=r"short has less than 5 s of sound"):
        voices.pack([speaker(tmp_path / "short", 300, 2)], tmp_path)
    assert not list(tmp_path.glob("*.tar*"))


def test_a_file_without_a_frame_is_named(tmp_path):
    folder = speaker(tmp_path / "one", 300, 1)
    write_word(folder / "empty.wav", 300, 0.0, silence=0.0)
    with pytest.raises(SystemExit, match=r"empty\.wav"):
        voices.pack([folder], tmp_path)
