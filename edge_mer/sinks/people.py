"""People who are followed and leave: the last thing that is said of each is that there is no estimate."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from edge_mer.types.predictions import Prediction


class Departures:
    """Sees who is predicted hop by hop, for interfaces whose readers keep the last value of each person."""

    def __init__(self) -> None:
        self._hop = -1
        self._now: set[str] = set()
        self._before: set[str] = set()

    def before(self, prediction: Prediction) -> Iterator[Prediction]:
        """A withheld prediction for each person who was not there in the last whole hop, and then this one.

        Args:
            prediction: The next one, of anybody.
        """
        if prediction.window_index != self._hop:
            gone = sorted(self._before - self._now)
            self._hop, self._before, self._now = prediction.window_index, self._now, set()
            for person in gone:
                yield withheld_for(prediction, person)
        if prediction.person is not None:
            self._now.add(prediction.person)
        yield prediction


def withheld_for(prediction: Prediction, person: str) -> Prediction:
    """What is said of somebody who is not there any more, with the times of another prediction."""
    return replace(
        prediction,
        person=person,
        status="withheld",
        reasons=("nobody_seen",),
        affect=None,
        pain=None,
        emotion=None,
        confidence=None,
    )
