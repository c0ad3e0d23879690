"""Who runs and who waits: rows without a gap, never more than the budget, everyone's turn."""

from hypothesis import given, settings
from hypothesis import strategies as st

from video_llama.engine.scheduler import Scheduler, Task

LONGEST = 256


def fill(scheduler: Scheduler) -> list[Task]:
    """Admit whoever can be, their prompts run at once."""
    admitted = []
    while (task := scheduler.admit()) is not None:
        task.cached = task.length
        task.generated += 1
        task.turn += 1
        scheduler.filled()
        admitted.append(task)
    return admitted


def advance(scheduler: Scheduler) -> None:
    """One token of everyone who runs."""
    for task in scheduler.running:
        task.cached += 1
        task.generated += 1
        task.turn += 1


def make(**settings: int) -> Scheduler:
    return Scheduler(
        **{"slots": 4, "budget": 4 * LONGEST, "longest": LONGEST, "turn_tokens": 50, **settings}
    )


def test_first_come_first_served():
    scheduler = make(slots=2)
    tasks = [Task(10, 20) for _ in range(5)]
    scheduler.waiting.extend(tasks)
    assert fill(scheduler) == tasks[:2]
    assert [task.row for task in tasks] == [0, 1, None, None, None]
    assert scheduler.leave(tasks[0]) == [(1, 0)]
    assert fill(scheduler) == [tasks[2]]
    assert [task.row for task in tasks] == [None, 0, 1, None, None]


def test_one_prompt_at_a_time_after_the_rows_that_run():
    scheduler = make()
    tasks = [Task(10, 20) for _ in range(3)]
    scheduler.waiting.extend(tasks[:2])
    fill(scheduler)
    scheduler.waiting.append(tasks[2])
    assert scheduler.admit() is tasks[2]
    assert tasks[2].row == 2
    assert scheduler.admit() is None
    # The last one that runs takes the free row, the prompt's row follows.
    assert scheduler.leave(tasks[0]) == [(1, 0), (2, 1)]
    assert [task.row for task in tasks] == [None, 0, 1]
    assert scheduler.leave(tasks[2]) == []


def test_short_ones_are_many_long_ones_few():
    scheduler = make(slots=16, budget=512)
    scheduler.waiting.extend(Task(20, 20) for _ in range(20))
    assert len(fill(scheduler)) == 8  # 64 tokens each
    assert scheduler.rows * scheduler.capacity <= 512
    scheduler = make(slots=16, budget=512)
    scheduler.waiting.extend(Task(200, 20) for _ in range(20))
    assert len(fill(scheduler)) == 2


def test_rows_become_short_again_when_that_lets_someone_in():
    scheduler = make(slots=4, budget=256)
    long = Task(200, 50)
    shorts = [Task(20, 20) for _ in range(4)]
    scheduler.waiting.extend([long, *shorts])
    assert fill(scheduler) == [long]
    assert scheduler.capacity == 256
    scheduler.leave(long)
    assert fill(scheduler) == shorts
    assert scheduler.capacity == 64


def test_growth_sends_the_youngest_to_the_front_of_the_queue():
    scheduler = make(slots=3, budget=256, turn_tokens=1000)
    tasks = [Task(30, 200) for _ in range(4)]
    scheduler.waiting.extend(tasks)
    assert len(fill(scheduler)) == 3
    victims: list[Task] = []
    while not victims:
        advance(scheduler)
        victims = scheduler.grow()
    assert victims == tasks[2:0:-1] or victims == [tasks[2]]
    for victim in victims:
        scheduler.put_back(victim, front=True)
    assert list(scheduler.waiting) == [*tasks[3 - len(victims) : 3], tasks[3]]
    assert scheduler.capacity == 128


def test_who_had_a_turn_makes_room():
    scheduler = make(slots=1, turn_tokens=5)
    first, second = Task(10, 100), Task(10, 100)
    scheduler.waiting.append(first)
    fill(scheduler)
    for _ in range(9):
        advance(scheduler)
    assert scheduler.had_its_turn() is None  # nobody waits
    scheduler.waiting.append(second)
    assert scheduler.had_its_turn() is first
    scheduler.put_back(first, front=False)
    assert fill(scheduler) == [second]
    assert list(scheduler.waiting) == [first]
    assert scheduler.had_its_turn() is None


def test_who_is_cancelled_or_late_is_over():
    scheduler = make(slots=1)
    late, cancelled, fine = Task(5, 5, deadline=3.0), Task(5, 5), Task(5, 5, deadline=9.0)
    scheduler.waiting.extend([late, cancelled, fine])
    fill(scheduler)
    cancelled.cancelled = True
    assert scheduler.over(2.9) == [cancelled]
    assert scheduler.over(3.0) == [late, cancelled]


tasks = st.builds(Task, st.integers(1, 150), st.integers(1, 100))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(tasks, min_size=1, max_size=12),
    st.integers(1, 5),
    st.integers(LONGEST, 3 * LONGEST),
    st.integers(1, 60),
    st.randoms(use_true_random=False),
)
def test_everyone_ends_whatever_happens(asked, slots, budget, turn, chance):
    """The engine's own loop without tensors: rows hold what the moves bring there."""
    scheduler = Scheduler(slots, budget, LONGEST, turn)
    held: dict[int, Task] = {}
    ended: list[Task] = []

    def move(task: Task, moves: list[tuple[int, int]], row: int | None) -> None:
        assert row is None or held.pop(row) is task
        for source, target in moves:
            assert target not in held
            held[target] = held.pop(source)

    def put_back(task: Task, *, front: bool) -> None:
        row = task.row
        move(task, scheduler.put_back(task, front=front), row)

    def leave(task: Task) -> None:
        row = task.row
        move(task, scheduler.leave(task), row)
        ended.append(task)

    left = list(asked)
    for _ in range(20_000):
        if left and chance.random() < 0.2:
            scheduler.waiting.append(left.pop())
        if chance.random() < 0.02 and (everyone := list(scheduler.all())):
            leave(chance.choice(everyone))
        task = scheduler.filling or scheduler.admit()
        if task is None and (rested := scheduler.had_its_turn()):
            put_back(rested, front=False)
            task = scheduler.admit()
        if task is not None:
            held[task.row] = task
            task.cached = min(task.length, task.cached + chance.randint(1, 80))
            if task.cached == task.length:
                scheduler.filled()
                task.generated += 1
                task.turn += 1
        for victim in scheduler.grow():
            put_back(victim, front=True)
        assert scheduler.rows * scheduler.capacity <= budget
        assert len(held) <= min(slots, scheduler.rows) or not held
        assert all(task.length <= scheduler.capacity for task in scheduler.running)
        advance(scheduler)
        assert [held[row] for row in range(len(scheduler.running))] == scheduler.running
        assert all(task.row == row for row, task in held.items())
        for task in list(scheduler.running):
            if task.generated >= task.max_new_tokens:
                leave(task)
        if not left and not scheduler.busy:
            break
    assert sorted(map(id, ended)) == sorted(map(id, asked))
