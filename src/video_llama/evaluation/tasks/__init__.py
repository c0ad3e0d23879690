"""The benchmarks by name."""

from video_llama.errors import OptionError
from video_llama.evaluation.task import Task
from video_llama.evaluation.tasks import (
    activitynet_qa,
    avhbench,
    avsd,
    claim,
    clotho_aqa,
    clotho_captions,
    coco_captions,
    msrvtt_captions,
    msrvtt_qa,
    msvd_qa,
    music_avqa,
    mvbench,
    pope,
    world,
)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        msvd_qa.TASK,
        msrvtt_qa.TASK,
        activitynet_qa.TASK,
        avsd.TASK,
        music_avqa.TASK,
        clotho_aqa.TASK,
        mvbench.TASK,
        pope.TASK,
        avhbench.TASK,
        coco_captions.TASK,
        msrvtt_captions.TASK,
        clotho_captions.TASK,
        world.TASK,
        claim.TASK,
    )
}


def get_task(name: str) -> Task:
    """The benchmark of a name.

    Raises:
        OptionError: there is none.
    """
    if name not in TASKS:
        raise OptionError(f"no benchmark {name!r}; there are {', '.join(TASKS)}")
    return TASKS[name]
