"""What stands under an answer: which streams were used, the frames with their times, the mel."""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from html import escape

from video_llama.answer import MediaUse, sound_warning
from video_llama.attachment import ReadMedium
from video_llama.processing.processor import VideoLlamaProcessor
from video_llama.server.web.album import Album
from video_llama.server.web.conversation import Seen
from video_llama.server.web.pictures import frame_pictures, mel_picture
from video_llama.server.web.texts import Texts

_MOST_KEPT = 256  # media


class SeenMedia:
    """What was seen of media of late: the same bytes, read in the same way, look the same again.

    May be used by several threads.

    Args:
        album: has the pictures.
    """

    def __init__(self, album: Album) -> None:
        self._album = album
        self._known: OrderedDict[Hashable, Seen] = OrderedDict()  # used last comes last
        self._lock = threading.Lock()

    def find(self, key: Hashable, name: str) -> Seen | None:
        """Under the name that it came with this time; None if it is not known, or not whole."""
        with self._lock:
            seen = self._known.get(key)
            if seen is None:
                return None
            self._known.move_to_end(key)
        pictures = [*seen.frames, *([seen.mel] if seen.mel else [])]
        there = [self._album.touch(picture) for picture in pictures]  # all of them
        return replace(seen, name=name) if all(there) else None

    def keep(self, key: Hashable, seen: Seen) -> None:
        """For the next time."""
        with self._lock:
            self._known[key] = seen
            if len(self._known) > _MOST_KEPT:
                self._known.popitem(last=False)


def see(
    name: str,
    use: MediaUse,
    medium: ReadMedium | None,
    processor: VideoLlamaProcessor,
    album: Album,
) -> Seen:
    """What the model was given of a medium; without the medium, only which of its streams."""
    if medium is None:
        return Seen(name, use)
    frames: Sequence[bytes] = ()
    if medium.frames is not None:
        frames = frame_pictures(medium.frames, processor.image_mean, processor.image_std)
    shown = tuple([album.add(frame, ".jpg") for frame in frames])
    mel = None if medium.clips is None else album.add(mel_picture(medium.clips), ".png")
    # Of a sound that is not used the page has words of its own, in its language.
    warnings = tuple(words for words in medium.warnings if words != sound_warning(use))
    return Seen(name, use, medium.part.times, shown, mel, warnings)


def seen_html(seen: Sequence[Seen], texts: Texts) -> str:
    """All media of an answer; nothing where there are none."""
    if not seen:
        return ""
    new = any(one.frames or one.mel for one in seen)
    title = texts.seen if new else texts.seen_before
    whole = "".join(_medium(one, texts) for one in seen)
    return (
        f'<details class="seen"{" open" * new}><summary>{escape(title)}</summary>{whole}</details>'
    )


def _medium(seen: Seen, texts: Texts) -> str:
    facts = [f"<b>{escape(seen.name)}</b>"]
    facts += [f"{escape(words)}: {escape(state)}" for words, state in _streams(seen.use, texts)]
    if seen.use.frames:
        facts.append(escape(texts.number_of_frames.format(seen.use.frames)))
    times = seen.times or (None,) * len(seen.frames)
    # A picture has no times, and frames of unknown time have none either.
    figures = "".join(
        _figure(url, "" if time is None else texts.moment.format(time))
        for url, time in zip(seen.frames, times, strict=False)
    )
    strip = f'<div class="frames">{figures}</div>' if figures else ""
    mel = ""
    if seen.mel is not None:
        words = escape(texts.mel)
        mel = (
            f'<figure class="mel"><img src="{seen.mel}" alt="{words}">'
            f"<figcaption>{words}</figcaption></figure>"
        )
    warnings = "".join(f'<p class="warning">⚠️ {escape(words)}</p>' for words in seen.warnings)
    return f'<div class="medium"><p>{" · ".join(facts)}</p>{warnings}{strip}{mel}</div>'


def _streams(use: MediaUse, texts: Texts) -> list[tuple[str, str]]:
    found = []
    if use.kind != "audio":
        found.append((texts.picture_of, texts.streams[use.picture]))
    if use.kind != "image":
        found.append((texts.sound_of, texts.streams[use.sound]))
    return found


def _figure(url: str, caption: str) -> str:
    words = escape(caption)
    return f'<figure><img src="{url}" alt="{words}"><figcaption>{words}</figcaption></figure>'
