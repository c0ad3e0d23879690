import threading

import pytest

from video_llama.engine.own_thread import in_own_thread
from video_llama.errors import MediaError


def test_work_is_done_in_a_thread_that_ends():
    made = in_own_thread(threading.current_thread)
    assert made is not threading.current_thread()
    assert not made.is_alive()


@pytest.mark.parametrize("error", [MediaError("no such file"), KeyboardInterrupt()])
def test_what_goes_wrong_is_raised(error):
    def work():
        raise error

    with pytest.raises(type(error)) as caught:
        in_own_thread(work)
    assert caught.value is error
