"""WebVid: a csv with a header, and `VIDEOS/PAGE_DIR/VIDEOID.mp4`.

    videoid,contentUrl,duration,page_dir,name
    12345,https://...,PT00H00M10S,000001_000050,"A dog runs, and a cat"

Other columns are not read. Known other names of the three are accepted; without a page_dir the
videos lie in the folder itself.
"""

import csv
from functools import partial
from pathlib import Path

from video_llama.data.records import RecordRows, Records, csv_records, unreadable
from video_llama.data.sample import Sample, caption_sample, media_path, require_text
from video_llama.errors import DataError

# Our name of a column, and what it is called in the files that are about.
COLUMNS = {
    "videoid": ("videoid", "video_id", "id"),
    "page_dir": ("page_dir", "page_idx"),
    "name": ("name", "caption", "text"),
}
SUFFIX = ".mp4"


def open_webvid(name: str, path: Path, media: Path) -> RecordRows:
    """The rows of a WebVid csv, as captions.

    Raises:
        DataError: it cannot be read, or has no column of ids or captions.
    """
    try:
        records = csv_records(path)
        header = records.read(0) if len(records) else b""
    except OSError as error:
        raise unreadable(path, error) from None
    places = _columns(path.name, _cells(path.name, header.removeprefix(b"\xef\xbb\xbf")))
    rows = Records(path, records.starts[1:], records.ends[1:])
    return RecordRows(name, rows, partial(parse_webvid, media=media, places=places))


def parse_webvid(key: str, record: bytes, *, media: Path, places: dict[str, int]) -> Sample:
    """One row; `places` are the numbers of the columns.

    Raises:
        DataError: cells are missing, or empty.
    """
    cells = _cells(key, record)
    width = max(places.values()) + 1
    if len(cells) < width:
        raise DataError(f"{key}: the row has {len(cells)} cells, at least {width} are needed")
    identity = require_text(key, cells[places["videoid"]], "videoid").strip()
    file_name = f"{identity}{SUFFIX}"
    if "page_dir" in places:
        page = require_text(key, cells[places["page_dir"]], "page_dir").strip()
        file_name = f"{page}/{file_name}"
    caption = require_text(key, cells[places["name"]], "the caption").strip()
    source = media_path(key, media, file_name)
    return caption_sample(key, "video", source, caption, identity=identity)


def _columns(name: str, header: list[str]) -> dict[str, int]:
    """Where the columns are."""
    names = [cell.strip().lower() for cell in header]
    places = {
        column: next(names.index(alias) for alias in aliases if alias in names)
        for column, aliases in COLUMNS.items()
        if set(aliases) & set(names)
    }
    for column in ("videoid", "name"):
        if column not in places:
            raise DataError(
                f"{name} has no column {column!r} (or {', '.join(COLUMNS[column][1:])}); "
                f"its first line is: {', '.join(header)[:100] or 'empty'}"
            )
    return places


def _cells(key: str, record: bytes) -> list[str]:
    try:
        return next(csv.reader([record.decode()]), [])
    except UnicodeDecodeError:
        raise DataError(f"{key}: not text in UTF-8") from None
    except csv.Error as error:
        raise DataError(f"{key}: not csv: {error}") from None
