"""Which recordings a run learns from, and by which it is judged."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

from edge_mer.errors import UsageError
from edge_mer.labels.manifest import Recording, read_manifest
from edge_mer.labels.problems import demand, summary
from edge_mer.runtime.labelled import check, ranges_of
from edge_mer.runtime.simulated import n_lead_in, simulated
from edge_mer.types.model import ModelSpec
from edge_mer_export.training.recipe import RecipeFile, SimulatedPeople


def recordings_of(spec: ModelSpec, read: RecipeFile) -> tuple[list[Recording], str]:
    """The recordings of a recipe, each with its split, and a warning about labels that are skipped.

    Raises:
        DataError: The manifest or its files cannot be used; every fault is listed.
        UsageError: Nobody is left to learn from or to choose by.
    """
    data = read.recipe.data
    if data.simulated is not None:
        return simulated_recordings(spec, data.simulated), ""
    recordings, problems = read_manifest(read.folder / str(data.manifest))
    problems = [*problems, *check(recordings, ranges_of(spec))]
    demand(problems, f"recordings of {data.manifest}")
    split = split_by_person(recordings, data.valid_share, read.recipe.seed)
    return split, summary(problems)


def simulated_recordings(spec: ModelSpec, people: SimulatedPeople) -> list[Recording]:
    """One session of each simulated person."""
    n_steps = people.n_steps + n_lead_in(spec)
    recordings = []
    for index in range(people.n_train + people.n_valid):
        person = people.first_person + index
        uri = simulated(spec, seed=people.seed, person=person, n_steps=n_steps, keys=people.keys)
        recordings.append(
            Recording(
                name=f"person-{person}",
                person=str(person),
                sources=(uri,),
                labels=None,
                label_rate_hz=None,
                split="train" if index < people.n_train else "valid",
            )
        )
    return recordings


def split_by_person(recordings: Sequence[Recording], valid_share: float, seed: int) -> list[Recording]:
    """Give every person without a split one; test recordings are left out.

    Raises:
        UsageError: Nobody is left to learn from or to choose by.
    """
    given = {one.person: one.split for one in recordings if one.split is not None}
    free = sorted({one.person for one in recordings} - given.keys(), key=lambda person: _lot(seed, person))
    fewest = 0 if "valid" in given.values() else 1
    most = len(free) if "train" in given.values() else len(free) - 1
    n_valid = min(max(round(valid_share * len(free)), fewest), most)
    chosen = given | {p: "valid" if i < n_valid else "train" for i, p in enumerate(free)}
    split = [dataclasses.replace(one, split=chosen[one.person]) for one in recordings]
    for name in ("train", "valid"):
        if all(one.split != name for one in split):
            raise UsageError(
                f"nobody is left for the split {name!r}",
                expected="at least two people, one to learn from and one to choose by",
                found=", ".join(f"{n} for {one}" for one, n in sorted(Counter(chosen.values()).items())),
            )
    return [one for one in split if one.split != "test"]


def _lot(seed: int, person: str) -> str:
    return hashlib.sha256(f"{seed}/{person}".encode()).hexdigest()
