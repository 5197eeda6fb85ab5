"""Scripted senders: what a modality or an archive does for one study or two, event by event."""

import itertools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

SERIES = (1, 24, 6)  # a localiser, slices, reformats
Image = tuple[str, int, int]  # study, series, number


@dataclass(order=True)
class Event:
    """Something that the sender does: open, image, released, aborted, step."""

    at: float
    order: int
    kind: str = field(compare=False)
    association: str = field(compare=False, default="")
    image: Image | None = field(compare=False, default=None)
    step: tuple[str, str, str, tuple[Image, ...]] | None = field(
        compare=False, default=None
    )  # UID, study, status, names


class Script:
    """The plan of one sender for one or two studies, written down as events."""

    def __init__(self, rng: random.Random, at: float, names: Sequence[str]) -> None:
        self.rng, self.at, self.names = rng, at, names
        self.events: list[Event] = []
        self.there: dict[str, list[tuple[float, list[Image]]]] = {}  # what the source itself holds, and since when
        self._numbers = itertools.count()

    def images(self, study: int = 0) -> list[Image]:
        """Return every image of a study, in order."""
        return [(self.names[study], s, n) for s, count in enumerate(SERIES) for n in range(count)]

    def series(self, study: int = 0) -> list[list[Image]]:
        """Return the same, series by series."""
        return [[i for i in self.images(study) if i[1] == s] for s in range(len(SERIES))]

    def wait(self, low: float, high: float) -> None:
        """Let some time pass."""
        self.at += self.rng.uniform(low, high)

    def do(self, kind: str, **more: Any) -> None:  # noqa: ANN401 - fields of an event
        """Write an event down."""
        self.events.append(Event(self.at, next(self._numbers), kind, **more))

    def send(self, images: Iterable[Image], gap: tuple[float, float] = (0.05, 0.3), end: str = "released") -> None:
        """Send images over one association."""
        name = f"{self.names[0]}/{next(self._numbers)}"
        self.do("open", association=name)
        for number, image in enumerate(images):
            if number:
                self.wait(*gap)
            self.do("image", association=name, image=image)
        self.at += 0.02
        self.do(end, association=name)

    def holds(self, images: Sequence[Image]) -> None:
        """From now on the source itself holds these images."""
        self.there.setdefault(self.names[0], []).append((self.at, list(images)))

    def step(self, number: int, status: str, images: Iterable[Image] = ()) -> None:
        """Say something about a performed procedure step."""
        self.do("step", step=(f"{self.names[0]}.9.{number}", self.names[0], status, tuple(images)))


def one_association(s: Script) -> None:
    s.send(s.images())


def one_per_series(s: Script) -> None:
    for number, images in enumerate(s.series()):
        if number:
            s.wait(2, 20)
        s.send(images)


def one_per_image(s: Script) -> None:
    for image in s.images():
        s.wait(0.3, 2)
        s.send([image])


def pauses_within(s: Script) -> None:
    s.send(s.images(), gap=(1, 30))


def pauses_between(s: Script) -> None:
    for image in s.images():
        s.wait(1, 30)
        s.send([image])


def reverse(s: Script) -> None:
    s.send(reversed(s.images()))


def shuffled(s: Script) -> None:
    images = s.images()
    s.rng.shuffle(images)
    cut = s.rng.randrange(5, 26)
    s.send(images[:cut])
    s.wait(0.5, 8)
    s.send(images[cut:])


def two_mixed(s: Script) -> None:
    images = s.images(0) + s.images(1)
    s.rng.shuffle(images)
    for begin in range(0, len(images), 16):
        s.send(images[begin : begin + 16])
        s.wait(0.5, 6)


def steps(s: Script) -> None:
    """End the step with the acquisition; the images trickle behind it."""
    s.step(1, "IN PROGRESS")
    s.wait(5, 20)
    first, *others = s.series()
    s.send(first)
    s.wait(5, 40)
    s.step(1, "COMPLETED", s.images())
    for images in others:
        s.wait(1, 30)
        s.send(images)


def counted(s: Script) -> None:
    """Hold everything before the first image is sent."""
    s.holds(s.images())
    for images in s.series():
        s.wait(1, 30)
        s.send(images)


def declared(s: Script) -> None:
    """Send whole studies; one association in five breaks off, and the study comes again."""
    if s.rng.random() < 0.2:
        s.send(s.images()[: s.rng.randrange(3, 28)], end="aborted")
        s.wait(5, 60)
    s.send(s.images())


def goes_on(s: Script) -> None:
    """Send whole studies; one in five breaks off, goes on behind the image without an answer, and brings that one last."""
    images = s.images()
    if s.rng.random() < 0.2:
        cut = s.rng.randrange(3, 28)
        s.send(images[:cut], end="aborted")
        s.wait(0.1, 5)
        s.send(images[cut + 1 :])
        s.wait(1, 30)
        images = [images[cut]]
    s.send(images)


def breaks_off(s: Script) -> None:
    """Declare nothing; three associations in ten break off, and the study comes again."""
    while s.rng.random() < 0.3:
        s.send(s.images()[: s.rng.randrange(3, 28)], end="aborted")
        s.wait(20, 90)
    s.send(s.images())


def false_count(s: Script) -> None:
    """Be an archive that is itself still receiving: it passes each series on and counts what it has so far."""
    so_far: list[Image] = []
    for images in s.series():
        s.wait(10, 30)
        so_far += images
        s.holds(so_far)
        s.send(images)


def false_declaration(s: Script) -> None:
    """Be said to send whole studies, but open an association for each series."""
    one_per_series(s)


def false_step(s: Script) -> None:
    """Do two steps, the second made known only after the first has ended and all its images have been sent."""
    first, second, third = s.series()
    for number, images in enumerate((first + second, third)):
        s.wait(10, 40)
        s.step(number, "IN PROGRESS")
        s.send(images)
        s.step(number, "COMPLETED", images)


SENDERS: tuple[tuple[str, Callable[[Script], None], str], ...] = (
    ("one association", one_association, ""),
    ("one association per series, 2-20 s between", one_per_series, ""),
    ("one association per image, 0.3-2 s between", one_per_image, ""),
    ("pauses of 1-30 s in one association", pauses_within, ""),
    ("pauses of 1-30 s, one association per image", pauses_between, ""),
    ("reverse order", reverse, ""),
    ("shuffled order, two associations", shuffled, ""),
    ("two studies mixed", two_mixed, ""),
    ("MPPS, 1-30 s between series", steps, ""),
    ("count, 1-30 s between series", counted, "query_port = 104"),
    ("declared whole studies, 1 in 5 breaks off", declared, 'sends = "study"'),
    ("declared whole studies, 1 in 5 goes on with the rest", goes_on, 'sends = "study"'),
    ("3 in 10 break off and come again", breaks_off, ""),
    ("*count of an archive still receiving", false_count, "query_port = 104"),
    ("*declared whole studies, sends series", false_declaration, 'sends = "study"'),
    ("*MPPS of a second part made known late", false_step, ""),
)
"""Name, script, keys of its peer; with a star: evidence that is wrong."""
