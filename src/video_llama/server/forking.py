"""The process that decoders are copied from.

It imports everything once, so that a new decoder is there at once; and it has neither the model nor
the threads of the server, which no copy must have.
"""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_IMPORTED = "video_llama.server.decoding"


def prepare() -> ForkServerContext:
    """Start it, if it is not there yet. It imports by itself while the caller goes on."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_IMPORTED])
    forkserver.ensure_running()
    return context
