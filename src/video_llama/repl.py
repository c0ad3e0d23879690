"""A conversation at a prompt, or read from a pipe, line by line."""

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from video_llama.errors import OptionError, VideoLlamaError
from video_llama.home import spelled_out
from video_llama.terminal import is_there, print_warnings, write

if TYPE_CHECKING:
    from video_llama.answer import Answer, MediaUse
    from video_llama.chat import ChatSession

HISTORY_VARIABLE = "VIDEO_LLAMA_HISTORY"
HISTORY_LINES = 1000
PROMPT = "> "


def cut_warning(answer: "Answer") -> list[str]:
    """What a person is told of an answer that had all its tokens."""
    if answer.finish_reason != "length":
        return []
    return [f"the answer was cut after {answer.tokens.generated} tokens"]


def media_line(use: "MediaUse") -> str:
    """One medium in a line: what it is and which of its streams the model gets."""
    length = "" if use.duration is None else f", {use.duration:.1f} s"
    return f"{use.name} ({use.kind}{length}): picture {use.picture}, sound {use.sound}"


class Repl:
    """A conversation read line by line.

    A line that begins with a slash is a command, any other is a question.
    """

    HELP = (
        "/media PATH...  add media to the conversation; without a path: list what is there\n"
        "/reset          forget what was said; the media stay\n"
        "/history        show what was said\n"
        "/help           this\n"
        "/quit           leave (so does the end of the input)"
    )

    def __init__(
        self,
        session: "ChatSession",
        out: TextIO | None = None,
        err: TextIO | None = None,
        **options: Any,
    ) -> None:
        """`options` are those of `ChatSession.answer`."""
        self.session = session
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.options = options
        self.failed = False
        self.commands: dict[str, Callable[[str], None]] = {
            "/media": self._media,
            "/reset": lambda _: self.session.reset(),
            "/history": lambda _: self._history(),
            "/help": lambda _: self._print(self.HELP),
        }

    def run(self, lines: Iterable[str]) -> bool:
        """Go through the lines; False when something failed on the way."""
        for line in lines:
            line = line.removeprefix("\ufeff").strip()  # Windows begins files with that mark
            if line.split(maxsplit=1)[:1] in (["/quit"], ["/exit"]):
                break
            if line:
                self._handle(line)
        return not self.failed

    def _handle(self, line: str) -> None:
        try:
            if line.startswith("/"):
                self._command(line)
            else:
                self._question(line)
        except VideoLlamaError as error:
            self.failed = True
            write(f"error: {error}\n", self.err)
        except KeyboardInterrupt:  # of a question: see there
            write("\nstopped; nothing was added\n", self.err)

    def _command(self, line: str) -> None:
        name, *rest = line.split(maxsplit=1)
        if name not in self.commands:
            raise OptionError(f"there is no command {name}; /help lists them")
        self.commands[name](*rest or [""])

    def _question(self, question: str) -> None:
        before = self.session.last_answer
        try:
            for piece in self.session.stream(question, **self.options):
                write(piece, self.out)
        except KeyboardInterrupt:
            write(" ...", self.out)  # stopped, and known to be
        self._print("")
        answer = self.session.last_answer
        if answer is not None and answer is not before:
            print_warnings([*cut_warning(answer), *answer.warnings], self.err)

    def _media(self, rest: str) -> None:
        if rest:
            self.session.add(*split_paths(rest))
        for use in self.session.media:
            self._print(media_line(use))

    def _history(self) -> None:
        for message in self.session.history:
            self._print(f"{message['role']}: {message['content']}")

    def _print(self, text: str) -> None:
        write(text + "\n", self.out)


def split_paths(text: str) -> list[str]:
    """Paths as a shell would read them; a name with spaces that exists needs no quotes."""
    home = spelled_out(text)
    if is_there(home):
        return [home]
    try:
        return [spelled_out(word) for word in shlex.split(text)]
    except ValueError:  # a quote that is not closed, as in a file's name
        return [text]


def typed_lines() -> Iterator[str]:
    """Lines typed at a prompt, with editing and the questions of earlier days."""
    history = _history_file()
    readline = None
    with contextlib.suppress(ImportError):  # some systems have no readline; a prompt works anyway
        import readline

        readline.set_history_length(HISTORY_LINES)
        if history is not None and history.is_file():
            with _unkept(f"earlier questions in {history} cannot be read"):
                readline.read_history_file(history)
    known = 0 if readline is None else readline.get_current_history_length()
    for line in _prompted():
        if readline is not None and history is not None:
            # At once: whoever closes the terminal does not say so.
            count = readline.get_current_history_length()
            if count > known and not _remembered(history, readline):
                history = None
            known = count
        yield line


def _remembered(history: Path, readline: Any) -> bool:
    """Add the line typed last to the file."""
    with _unkept(f"questions cannot be kept in {history}"):
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        if hasattr(readline, "append_history_file"):
            readline.append_history_file(1, history)
        else:  # of some systems
            readline.write_history_file(history)
        return True
    return False


@contextlib.contextmanager
def _unkept(what: str) -> Iterator[None]:
    """A history that cannot be read or written is a warning, and no end of the conversation."""
    try:
        yield
    except OSError as error:
        print_warnings([f"{what}: {error.strerror}; {HISTORY_VARIABLE} names another file"])


def _prompted() -> Iterator[str]:
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n/quit leaves", file=sys.stderr)


def _history_file() -> Path | None:
    """Where questions are kept; the variable names another file, or none when it is empty."""
    given = os.environ.get(HISTORY_VARIABLE)
    if given is not None:
        return Path(given) if given else None
    try:
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    except RuntimeError:  # a user without a home
        return None
    return state / "video-llama" / "history"
