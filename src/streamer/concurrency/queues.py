"""The queues between the stages: bounded, so that a fast stage waits for a slow one."""

import math
import time
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio

T = TypeVar("T")


class Queue(Generic[T]):
    """An anyio memory object stream that holds at most `max_items` and `max_bytes`.

    An item larger than `max_bytes` passes when the queue is empty. The sending stage uses it as a
    context manager: leaving that without an error closes the queue, and the receiving stage's loop
    ends once the queue is empty.
    """

    def __init__(self, name: str, max_items: int, max_bytes: float = math.inf) -> None:
        self.name = name
        self.max_items = max_items
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self._asked = 0.0
        """When the receiving stage last asked for an item."""
        self._room = anyio.Condition()
        self._in, self._out = anyio.create_memory_object_stream[tuple[T, int]](max_items)

    async def send(self, item: T, size: int = 0) -> None:
        """Append `item`, of `size` bytes. Waits while the queue is full."""
        async with self._room:
            while self.held_bytes and self.held_bytes + size > self.max_bytes:
                await self._room.wait()
            self.held_bytes += size
        await self._in.send((item, size))

    async def receive(self) -> T:
        """Take the next item. Waits while the queue is empty.

        :raises anyio.EndOfStream: the sending stage has ended and the queue is empty.
        """
        self._asked = time.monotonic()
        item, size = await self._out.receive()
        async with self._room:
            self.held_bytes -= size
            self._room.notify_all()
        return item

    @property
    def fill(self) -> float:
        """How full it is, 0 to 1, in items or in bytes, whichever is fuller."""
        waiting = self._out.statistics().current_buffer_used
        by_bytes = 0.0 if math.isinf(self.max_bytes) else self.held_bytes / self.max_bytes
        return min(1.0, max(waiting / self.max_items, by_bytes))

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in it."""
        return self._out.statistics().current_buffer_used == 0

    @property
    def starved_seconds(self) -> float:
        """How long the receiving stage has been idle because the queue is empty."""
        if not self._out.statistics().tasks_waiting_receive:
            return 0.0
        return time.monotonic() - self._asked

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:  # a stage that broke must not look like the end of the input
            self._in.close()
