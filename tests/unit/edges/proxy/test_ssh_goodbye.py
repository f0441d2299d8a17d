import threading
from collections.abc import Callable

from gateway.edges.proxy.ssh_goodbye import Goodbyes

WITHIN = 10


class Told:
    """What was done to whom, in order."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.changed = threading.Condition()

    def add(self, what: str, number: int) -> None:
        with self.changed:
            self.done.append((what, number))
            self.changed.notify_all()

    def wait(self, so: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(so, WITHIN), self.done


class Leaver:
    def __init__(self, told: Told, number: int, *, fails: bool = False) -> None:
        self.told, self.number, self.fails = told, number, fails

    def say_goodbye(self, sentence: str) -> None:
        self.told.add(sentence, self.number)
        if self.fails:
            raise RuntimeError("gone")

    def disconnect(self, sentence: str) -> None:
        self.told.add(f"{sentence} again", self.number)

    def leave_target(self) -> None:
        self.told.add("left", self.number)

    def cut(self) -> None:
        self.told.add("cut", self.number)


def test_everybody_is_told_before_anything_else_and_cut_in_the_end() -> None:
    told, goodbyes = Told(), Goodbyes()
    first = threading.Event()

    class Slow(Leaver):
        def say_goodbye(self, sentence: str) -> None:
            assert first.wait(WITHIN)  # the others gather meanwhile
            super().say_goodbye(sentence)

    goodbyes.add(Slow(told, 0), "bye")
    for number in range(1, 50):
        goodbyes.add(Leaver(told, number, fails=number == 7), "bye")
    first.set()
    told.wait(lambda: len(told.done) == 200)
    crowd = [(what, number) for what, number in told.done if number]
    assert crowd[:49] == [("bye", number) for number in range(1, 50)]
    assert {what for what, _ in crowd[49:98]} == {"left"}
    assert crowd[98:147] == [("bye again", number) for number in range(1, 50)]
    assert crowd[147:] == [("cut", number) for number in range(1, 50)]


def test_a_goodbye_that_comes_late_goes_before_the_targets_legs() -> None:
    told, goodbyes = Told(), Goodbyes()
    gathered = threading.Event()

    class First(Leaver):
        def say_goodbye(self, sentence: str) -> None:
            assert gathered.wait(WITHIN)
            super().say_goodbye(sentence)

        def leave_target(self) -> None:
            super().leave_target()
            goodbyes.add(Leaver(told, 3), "bye")

    goodbyes.add(First(told, 1), "bye")
    goodbyes.add(Leaver(told, 2), "bye")
    gathered.set()
    told.wait(lambda: ("left", 3) in told.done)
    done = [each for each in told.done if each[0] in ("bye", "left")]
    assert done == [("bye", 1), ("bye", 2), ("left", 1), ("bye", 3), ("left", 2), ("left", 3)]


def test_books_are_closed_after_the_goodbyes_that_are_due() -> None:
    told, goodbyes = Told(), Goodbyes()
    said = threading.Event()

    class Slow(Leaver):
        def say_goodbye(self, sentence: str) -> None:
            assert said.wait(WITHIN)
            super().say_goodbye(sentence)

    def close_books() -> None:
        with goodbyes.books():
            told.add("books", 1)

    goodbyes.add(Slow(told, 1), "bye")
    closing = threading.Thread(target=close_books)
    closing.start()
    assert not told.done
    said.set()
    closing.join(WITHIN)
    assert [what for what, _ in told.done if what != "cut"] == ["bye", "left", "bye again", "books"]


def test_without_goodbyes_books_are_closed_at_once() -> None:
    with Goodbyes().books():
        pass
