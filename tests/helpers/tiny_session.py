"""A session for the tiny model: a bright square for a face, a tone for a voice, and what may go wrong."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edge_mer.preprocess.face import TYPICAL_EYES, Detection
from edge_mer.types.signals import Chunk, Modality, StreamSpec
from tests.helpers.tiny_model import FRAME, RATE_HZ, STEP

HEIGHT, WIDTH = 60, 80
LEFT, TOP, SIDE = 24, 14, 32
VISUAL = StreamSpec(
    name="test/visual",
    modality="visual",
    axes=("height", "width", "channel"),
    shape=(HEIGHT, WIDTH, 3),
    dtype="uint8",
    rate_hz=30.0,
    unit="rgb24",
    channels=("r", "g", "b"),
)
AUDIO = StreamSpec(
    name="test/audio",
    modality="audio",
    axes=("sample", "channel"),
    shape=(None, 1),
    dtype="float32",
    rate_hz=float(RATE_HZ),
    unit="1",
    channels=("mono",),
)


class SquareDetector:
    """Finds the square of pixels whose red is bright; its eyes are where eyes usually are.

    Args:
        sees_eyes: Whether it finds them.
    """

    name = "square"

    def __init__(self, *, sees_eyes: bool = True) -> None:
        self._sees_eyes = sees_eyes

    def detect(self, frame: NDArray[np.uint8]) -> list[Detection]:
        """The square, or nothing."""
        ys, xs = np.nonzero(frame[:, :, 0] >= 200)
        if ys.size == 0:
            return []
        x, y = float(xs.min()), float(ys.min())
        width, height = float(np.ptp(xs)) + 1, float(np.ptp(ys)) + 1
        left, right = ((x + fx * width, y + fy * height) for fx, fy in TYPICAL_EYES)
        eyes = (left, right) if self._sees_eyes else None
        return [Detection(box_px=(x, y, width, height), score=1.0, eyes_px=eyes)]


def frame_of(person: int | None, shade: int = 0) -> NDArray[np.uint8]:
    """A picture of a person, or of nobody; each person is in a room of their own."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    room = 0 if person is None else person
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, :, 1] = 120 * ((x // 10 + room * (y // 7)) % 2)
    picture[:, :, 2] = 90 * room % 256
    if person is not None:
        face = np.mgrid[:SIDE, :SIDE]
        stripes = face[person % 2] // (4 + person) % 2
        square = picture[TOP : TOP + SIDE, LEFT : LEFT + SIDE]
        square[:, :, 0] = 210
        square[:, :, 1] = 40 + shade + 150 * stripes
        square[:, :, 2] = 30 + 60 * person + face[1 - person % 2]
    return picture


@dataclass
class TinySession:
    """What comes, in order of capture.

    Attributes:
        n_steps: Steps of the grid that it lasts.
        faceless: Steps in which nobody is seen.
        frameless: Steps in which no frame comes.
        silent: Steps in which no sample comes.
        persons: Step -> who is seen from then on.
        streams: The modalities that it has.
        chunk_samples: Samples per chunk of sound.
    """

    n_steps: int
    faceless: Container[int] = ()
    frameless: Container[int] = ()
    silent: Container[int] = ()
    persons: dict[int, int] = field(default_factory=lambda: {0: 0})
    streams: tuple[Modality, ...] = ("visual", "audio")
    chunk_samples: int = 160

    @property
    def specs(self) -> list[StreamSpec]:
        """Its streams."""
        return [spec for spec in (VISUAL, AUDIO) if spec.modality in self.streams]

    @property
    def sound(self) -> NDArray[np.float32]:
        """All samples, also those that do not come; another level in each step."""
        index = np.arange(int(self.n_steps * STEP * RATE_HZ))
        level = 0.05 + 0.1 * (index * STEP.denominator // (STEP.numerator * RATE_HZ) % 4)
        return (level * np.sin(2 * np.pi * 440 * index / RATE_HZ)).astype(np.float32)

    def chunks(self) -> Iterator[Chunk]:
        """All that comes."""
        held = [*self._frames()] if "visual" in self.streams else []
        if "audio" in self.streams:
            held += self._pieces()
        yield from sorted(held, key=lambda chunk: chunk.t_ns)

    def _frames(self) -> Iterator[Chunk]:
        for seq in range(int(self.n_steps * STEP / FRAME)):
            step = int(seq * FRAME / STEP)
            if step in self.frameless:
                continue
            person = self.persons[max(first for first in self.persons if first <= step)]
            frame = frame_of(None if step in self.faceless else person, shade=5 * (step % 5))
            yield Chunk(VISUAL.name, "visual", seq, int(seq * FRAME * 1_000_000_000), frame)

    def _pieces(self) -> Iterator[Chunk]:
        sound, seq = self.sound, 0
        for step in range(self.n_steps):
            first, last = int(step * STEP * RATE_HZ), int((step + 1) * STEP * RATE_HZ)
            if step in self.silent:
                continue
            for start in range(first, last, self.chunk_samples):
                data = sound[start : min(start + self.chunk_samples, last)]
                t_ns = start * 1_000_000_000 // RATE_HZ
                yield Chunk(AUDIO.name, "audio", seq, t_ns, data[:, np.newaxis])
                seq += 1
