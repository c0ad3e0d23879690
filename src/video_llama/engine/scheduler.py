"""Who runs and who waits. Numbers only: the engine does to tensors what is decided here.

Sequences that run have rows 0, 1, 2, ... of the cache without a gap, so that a step is one batch;
the one whose prompt is being run has the row after them. All rows have the same capacity in tokens,
and rows times capacity never exceed the budget: short conversations are many, long ones are few.
When rows grow and no longer fit, the youngest go back to the front of the queue; while others wait,
whoever has had its turn goes back to the end of it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

SMALLEST_CAPACITY = 64  # tokens of a row
HEADROOM = 32  # tokens that must be free for an answer when a row is given


@dataclass(eq=False)
class Task:
    """A request as the scheduler sees it.

    Attributes:
        prompt_tokens: length of the prompt.
        max_new_tokens: length of the longest answer.
        deadline: of `time.monotonic()`.
        generated: tokens chosen so far.
        cached: tokens whose keys and values are in the row.
        row: its row, None while it waits.
        turn: tokens chosen since it was given its row.
        cancelled: nobody wants the rest.
    """

    prompt_tokens: int
    max_new_tokens: int
    deadline: float | None = None
    generated: int = 0
    cached: int = 0
    row: int | None = None
    turn: int = 0
    cancelled: bool = False

    @property
    def length(self) -> int:
        """Tokens of the prompt and of the answer so far."""
        return self.prompt_tokens + self.generated

    @property
    def wanted(self) -> int:
        """Tokens a row should have for it: some for the answer, but never more than it can use."""
        return min(self.length + HEADROOM, self.prompt_tokens + self.max_new_tokens)


class Scheduler:
    """Decides; see the top of the file.

    Args:
        slots: sequences that may run together.
        budget: tokens of all rows together.
        longest: tokens of the longest sequence.
        turn_tokens: tokens that one may choose while others wait.

    Attributes:
        running: those that choose tokens; the place is the row.
        filling: the one whose prompt is run, with the row after the last of `running`.
        waiting: those without a row, next one first.
        capacity: tokens of a row now; 0 before there is any.
    """

    def __init__(self, slots: int, budget: int, longest: int, turn_tokens: int) -> None:
        assert budget >= longest, "one sequence of full length must fit"
        self.slots = slots
        self.budget = budget
        self.longest = longest
        self.turn_tokens = turn_tokens
        self.running: list[Task] = []
        self.filling: Task | None = None
        self.waiting: deque[Task] = deque()
        self.capacity = 0
        self._by_age: list[Task] = []  # those with a row, in the order in which it was given

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.running or self.filling or self.waiting)

    @property
    def rows(self) -> int:
        """Rows there are at the capacity of now."""
        return self.rows_at(self.capacity) if self.capacity else 0

    def rows_at(self, capacity: int) -> int:
        """Rows that the budget allows."""
        return min(self.slots, self.budget // capacity)

    def capacity_for(self, tokens: int) -> int:
        """The capacity of rows that must hold so many tokens: doublings, up to the longest."""
        capacity = SMALLEST_CAPACITY
        while capacity < tokens:
            capacity *= 2
        return min(capacity, self.longest)

    def over(self, now: float) -> list[Task]:
        """Those that are to end now: cancelled, or past their deadline."""
        return [task for task in self.all() if task.cancelled or is_late(task, now)]

    def all(self) -> Iterator[Task]:
        """Everyone."""
        yield from self.running
        if self.filling is not None:
            yield self.filling
        yield from self.waiting

    def admit(self) -> Task | None:
        """Give the next one who waits a row, if there is one to give; changes `capacity`."""
        if self.filling is not None or not self.waiting:
            return None
        task = self.waiting[0]
        capacity = self.capacity
        if task.wanted > capacity or self.rows <= len(self.running):
            capacity = self.capacity_for(max(one.wanted for one in (task, *self.running)))
            if self.rows_at(capacity) <= len(self.running):
                return None
        self.capacity = capacity
        self.waiting.popleft()
        task.row, task.cached, task.turn = len(self.running), 0, 0
        self.filling = task
        self._by_age.append(task)
        return task

    def filled(self) -> None:
        """The prompt of `filling` has run: it chooses tokens from now on."""
        assert self.filling is not None
        self.running.append(self.filling)
        self.filling = None

    def had_its_turn(self) -> Task | None:
        """Who should make room for one that waits: who chose most tokens, when it is enough."""
        if not self.waiting or self.filling is not None or not self.running:
            return None
        task = max(self.running, key=lambda one: one.turn)
        return task if task.turn >= self.turn_tokens else None

    def grow(self) -> list[Task]:
        """Make every running row hold one more token; who has to go for that, youngest first.

        Changes `capacity`. The tasks are still in their rows, for the engine to save them.
        """
        needed = max((task.length for task in self.running), default=0)
        if needed <= self.capacity:
            return []
        self.capacity = self.capacity_for(needed)
        return self._by_age[self.rows :][::-1]

    def leave(self, task: Task) -> list[tuple[int, int]]:
        """Take a task out; which rows are to be moved, (from, to), in this order."""
        if task.row is None:
            self.waiting.remove(task)
            return []
        row, task.row = task.row, None
        self._by_age.remove(task)
        if task is self.filling:
            self.filling = None
            return []
        moves = []
        last = self.running.pop()
        if last is not task:
            moves.append((len(self.running), row))
            self.running[row] = last
            last.row = row
        if self.filling is not None:
            moves.append((len(self.running) + 1, len(self.running)))
            self.filling.row = len(self.running)
        return moves

    def put_back(self, task: Task, *, front: bool) -> list[tuple[int, int]]:
        """Take a task's row away and let it wait, before or after the others; the moves."""
        moves = self.leave(task)
        if front:
            self.waiting.appendleft(task)
        else:
            self.waiting.append(task)
        return moves


def is_late(task: Task, now: float) -> bool:
    """Whether a task's deadline has passed."""
    return task.deadline is not None and now >= task.deadline
