"""Imported by the fork server alone, before it forks readers: they are in a session of their own.

A signal for the group of the training process (torchrun ends all of it, a terminal interrupts it)
would end its readers in the middle of the step that is to be finished.
"""

import contextlib
import os

with contextlib.suppress(OSError):  # it leads one already
    os.setsid()
