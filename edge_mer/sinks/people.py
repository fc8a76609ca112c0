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
        """A withheld prediction for each person who is not there any more, and then this one.

        That is who was not there in the last whole hop; and everybody, once a prediction is about nobody.

        Args:
            prediction: The next one, of anybody.
        """
        for person in sorted(self._gone(prediction)):
            yield withheld_for(prediction, person)
        yield prediction

    def _gone(self, prediction: Prediction) -> set[str]:
        if prediction.person is None:
            gone = self._before | self._now
            self._hop, self._before, self._now = prediction.window_index, set(), set()
            return gone
        gone = set()
        if prediction.window_index != self._hop:
            gone = self._before - self._now
            self._hop, self._before, self._now = prediction.window_index, self._now, set()
        self._now.add(prediction.person)
        return gone - self._now


def withheld_for(prediction: Prediction, person: str) -> Prediction:
    """What is said of somebody who is not there any more, with the times of another prediction.

    Args:
        prediction: About somebody else; or about nobody, and then its reasons are theirs.
        person: Who left.
    """
    return replace(
        prediction,
        person=person,
        status="withheld",
        reasons=prediction.reasons if prediction.person is None else ("nobody_seen",),
        affect=None,
        pain=None,
        emotion=None,
        confidence=None,
    )
