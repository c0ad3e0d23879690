"""What can go wrong, as one tree.

VideoLlamaError                  anything a user can put right; a command prints it and exits with 1
├── MediaError                   about a picture, a sound or a video that was given
│   ├── MediaNotFoundError       there is nothing to read (no such file, a directory, an empty file)
│   ├── UnsupportedMediaError    it is there, and it is not media, or not media that is accepted
│   ├── CorruptMediaError        it is media, and too little of it decodes
│   ├── MediaLimitError          it is larger or longer than a limit, or its deadline passed
│   └── ForbiddenSourceError     it comes from a place that is not allowed (host, scheme, reference)
├── PromptError                  about a conversation
│   └── PromptTooLongError       it does not fit beside the answer in the model's context
├── DataError                    about a row or a file of a data set that cannot be used
├── JudgeError                   a model that is to judge answers cannot be reached, or refuses
├── BusyError                    as much is being answered as may be; asking again later helps
├── TrainingError                a training run that cannot begin, or cannot go on
├── CheckpointError              about the files of a model: missing, mixed up, not what they seem
└── OptionError                  a setting with a value that is not accepted

Absent sound is a value, never an error; sound that fails to decode is an error, never a value.
"""

import errno

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: there is no room


class VideoLlamaError(Exception):
    """Base of every error a user can put right."""


class MediaError(VideoLlamaError):
    """Something about a given picture, sound or video."""


class MediaNotFoundError(MediaError):
    """Nothing to read: no such file, a directory, an empty file."""


class UnsupportedMediaError(MediaError):
    """The bytes are not media, or not media that is accepted."""


class CorruptMediaError(MediaError):
    """Media of which too little decodes."""


class MediaLimitError(MediaError):
    """A limit on size, length, streams or time was passed."""


class ForbiddenSourceError(MediaError):
    """A source that the policy does not allow."""


class PromptError(VideoLlamaError):
    """Something about a conversation or a prompt."""


class PromptTooLongError(PromptError):
    """The prompt and the answer do not fit in the context.

    `excess` is the number of tokens over.
    """

    def __init__(self, message: str, excess: int) -> None:
        super().__init__(message)
        self.excess = excess

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        """For another process: with what it was made from."""
        return type(self), (str(self), self.excess)


class DataError(VideoLlamaError):
    """A row or a file of a data set that cannot be used; the message names it and its fault."""


class TrainingError(VideoLlamaError):
    """A training run that cannot begin or go on; what was saved before stays usable."""


class BusyError(VideoLlamaError):
    """As many requests are being answered, or wait, as may; asking again later helps."""


class JudgeError(VideoLlamaError):
    """The model that is to judge answers cannot be reached, or refuses; its host is named."""


class CheckpointError(VideoLlamaError):
    """Model files that are missing, mixed up or not what they seem."""


class OptionError(VideoLlamaError):
    """A setting with a value that is not accepted."""
