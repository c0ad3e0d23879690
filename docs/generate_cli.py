"""Writes docs/cli.md from the help texts of the commands; with --check, compares instead."""

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path

os.environ["COLUMNS"] = "100"
# The terminal's own settings must not show in the text.
os.environ["NO_COLOR"] = "1"

from video_llama.cli import main

TARGET = Path(__file__).with_name("cli.md")
COMMANDS = (
    "ask",
    "chat",
    "convert",
    "verify",
    "world",
    "train",
    "eval",
    "serve",
    "data",
    "data check",
    "data pack",
)
HEADER = """# Commands

Exit status: 0, it worked; 1, it failed, and stderr says why in a line; 2, the arguments are wrong.
Answers go to stdout, warnings and errors to stderr. With `--json` stdout holds one JSON object,
also where it failed, with status 1: `{"error": {"type": ..., "message": ...}}`.

This page is written by `docs/generate_cli.py`.
"""


def help_text(*arguments: str) -> str:
    """What `video-llama ARGUMENTS --help` prints."""
    out = io.StringIO()
    try:
        with redirect_stdout(out):
            main([*arguments, "--help"])
    except SystemExit:
        return out.getvalue().strip()
    raise AssertionError("a command returns by SystemExit")


def page() -> str:
    """The whole of docs/cli.md."""
    parts = [HEADER, f"```text\n{help_text()}\n```\n"]
    for name in COMMANDS:
        parts.append(f"## video-llama {name}\n\n```text\n{help_text(*name.split())}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(page(), encoding="utf-8")
    elif not TARGET.is_file() or TARGET.read_text(encoding="utf-8") != page():
        sys.exit(f"{TARGET.name} is not what --help prints; run docs/generate_cli.py")
