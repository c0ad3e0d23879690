"""`video-llama data`: look through training data, and pack it."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from video_llama.terminal import print_json, reporting, write

if TYPE_CHECKING:
    from video_llama.data.check import CheckReport
    from video_llama.data.pack import Manifest

SHOWN_FAULTS = 20

app = typer.Typer(rich_markup_mode=None, no_args_is_help=True)

File = Annotated[str, typer.Argument(metavar="FILE", hidden=True)]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="'webvid', 'captions', 'descriptions', 'llava', 'videochat', 'jsonl' or 'shards'; "
        "'auto' finds out.",
    ),
]
MediaFolder = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder of the media.  [default: beside FILE]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def _data() -> None:
    """Look through training data, and pack it into shards.

    \b
    Formats:
      webvid        csv with videoid, page_dir and name; videos/PAGE_DIR/VIDEOID.mp4
      captions      filter_cap.json of CC-595K: captions, as stage 1 learns them
      descriptions  filter_cap.json of MiniGPT-4: answers, as stage 2 learns them
      llava         LLaVA's json: image, conversations with <image> in the text
      videochat     VideoChat's json: video, QA
      jsonl         lines with messages, conversations, or a caption
      shards        WebDataset tar files: a folder, "x-{000..012}.tar" or "x-*.tar"
    """


@app.command()
def check(
    *,
    file: File,
    data_format: Format = "auto",
    media: MediaFolder = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Look at the first N rows only.")
    ] = None,
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every medium, too; this takes a while.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say which rows of a data set cannot be used, and why.

    Looks for missing and empty media, empty answers, turns out of order, placeholders and media
    that differ in number, and rows that are there twice. Rows count from 0. Exit status 1 when a
    row is bad.

    \b
    Example:
      video-llama data check llava_instruct_150k.json --media coco/train2017
      video-llama data check "shards/train-{000..012}.tar" --limit 1000 --decode
    """
    with reporting(as_json):
        from video_llama.data.check import check as look_through
        from video_llama.data.formats import DatasetSpec

        spec = DatasetSpec(file, data_format, media)
        report = look_through(spec, limit=limit, decode=decode, progress=_progress())
        if as_json:
            print_json(report.to_dict())
        else:
            write(report_text(report), sys.stdout)
    if not report.passed:
        raise SystemExit(1)


@app.command()
def pack(
    *,
    file: File,
    output: Annotated[Path, typer.Argument(metavar="OUT", hidden=True)],
    data_format: Format = "auto",
    media: MediaFolder = None,
    shard_size: Annotated[
        float, typer.Option(min=0.1, max=1e6, metavar="MB", help="Size of a shard in megabytes.")
    ] = 256.0,
    as_json: AsJson = False,
) -> None:
    """Write a data set as WebDataset shards.

    The folder OUT gets the shards, an index beside each, "pack.json" with what was written, and
    "skipped.jsonl" with the rows that cannot be used and why. The same rows give the same bytes;
    a run that was broken off goes on.

    \b
    Example:
      video-llama data pack results_2M_train.csv shards/webvid --media videos --shard-size 512
    """
    with reporting(as_json):
        from video_llama.data.formats import DatasetSpec
        from video_llama.data.pack import pack as write_shards

        spec = DatasetSpec(file, data_format, media)
        size = round(shard_size * 1_000_000)
        manifest = write_shards(spec, output, shard_bytes=size, progress=_progress())
        if as_json:
            print_json(_packed(manifest, output))
        else:
            write(_packed_text(manifest, output), sys.stdout)


def report_text(report: "CheckReport") -> str:
    """A report for people to read."""
    looked = "" if report.checked == report.rows else f", the first {report.checked:,} looked at"
    media = ", ".join(f"{count:,} {kind}" for kind, count in sorted(report.media.items()))
    lines = [
        f"{report.name}: {report.rows:,} rows{looked}",
        f"  {report.checked - report.bad:,} good, {report.bad:,} bad",
        f"  in the good ones: {media or 'no media'}; {report.answers:,} answers",
    ]
    for fault in report.faults[:SHOWN_FAULTS]:
        lines.append(f"  FAIL {fault.key}: {fault.reason} ({fault.kind})")
    total = sum(report.kinds.values())
    if total > SHOWN_FAULTS:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.kinds.most_common())
        lines.append(f"  ... {total:,} faults in all: {kinds}")
    if not report.rows:
        lines.append("  there are no rows; give another file, or another --format")
    return "\n".join([*lines, "nothing wrong" if report.passed else "something is wrong", ""])


def _packed_text(manifest: "Manifest", output: Path) -> str:
    """What was packed, for people to read."""
    text = "{out}: {samples:,} samples in {shards:,} shards, {skipped:,} rows skipped\n"
    if manifest.packed_before:
        text += "packed before; skipped rows stay skipped; give another folder to pack anew\n"
    return text.format(**_packed(manifest, output))


def _packed(manifest: "Manifest", output: Path) -> dict[str, object]:
    rows = manifest.source["rows"]
    return {
        "out": str(output),
        "shards": len(manifest.shards),
        "samples": manifest.samples,
        "skipped": rows - manifest.samples,
        "bytes": sum(shard.bytes for shard in manifest.shards),
        "packed_before": manifest.packed_before,
    }


def _progress() -> Callable[[int, int], None] | None:
    """Shows how far it is where someone watches; None elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        if done == total or done % 100 == 0:
            write(f"\r{done:,} of {total:,}{chr(10) if done == total else ''}", sys.stderr)

    return show
