import asyncio
from collections.abc import Callable

from service.api.line import Line
from service.inference.ticket import Priority


class Seats:
    """So many may sit; `left` ones get up."""

    def __init__(self, free: int) -> None:
        self.free = free
        self.order: list[str] = []

    def taker(self, name: str) -> Callable[[], bool]:
        def take() -> bool:
            if not self.free:
                return False
            self.free -= 1
            self.order.append(name)
            return True

        return take


async def settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


def test_where_there_is_room_nobody_waits() -> None:
    async def scenario() -> None:
        line, seats = Line(), Seats(1)
        assert await line.stand(seats.taker("a"), "routine")
        assert len(line) == 0
        assert seats.order == ["a"]

    asyncio.run(scenario())


def test_urgent_ones_go_first_and_then_who_came_first() -> None:
    async def scenario() -> None:
        line, seats = Line(), Seats(0)
        names: list[tuple[str, Priority]] = [
            ("b1", "batch"), ("r1", "routine"), ("r2", "routine"), ("s1", "stat")
        ]  # fmt: skip
        tasks = [
            asyncio.create_task(line.stand(seats.taker(name), priority)) for name, priority in names
        ]
        await settle()
        assert len(line) == 4
        seats.free = 3
        line.move()
        assert seats.order == ["s1", "r1", "r2"]
        # A seat that becomes free is not for who comes later, but for who stands here.
        seats.free = 1
        late = asyncio.create_task(line.stand(seats.taker("b2"), "batch"))
        await settle()
        assert seats.order[3:] == []
        line.move()
        assert seats.order[3:] == ["b1"]
        seats.free = 1
        line.move()
        assert await asyncio.gather(*tasks, late) == [True] * 5

    asyncio.run(scenario())


def test_who_waits_no_longer_leaves_the_line_and_takes_nothing() -> None:
    async def scenario() -> None:
        line, seats = Line(), Seats(0)
        assert not await line.stand(seats.taker("late"), "routine", timeout_s=0.01)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        leaving = asyncio.create_task(line.stand(seats.taker("gone"), "routine", gone=gone))
        cancelled = asyncio.create_task(line.stand(seats.taker("cancelled"), "routine"))
        await settle()
        gone.set_result(None)
        cancelled.cancel()
        assert not await leaving
        await asyncio.wait([cancelled])
        assert cancelled.cancelled()
        seats.free = 5
        line.move()
        assert seats.order == []
        assert len(line) == 0

    asyncio.run(scenario())


def test_who_stood_behind_one_that_left_is_let_in_where_it_fits() -> None:
    async def scenario() -> None:
        line, seats = Line(), Seats(0)
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        large = asyncio.create_task(line.stand(lambda: False, "routine", gone=gone))
        await settle()
        seats.free = 1
        small = asyncio.create_task(line.stand(seats.taker("small"), "routine"))
        await settle()
        assert seats.order == []
        gone.set_result(None)
        assert not await large
        assert await small

    asyncio.run(scenario())
