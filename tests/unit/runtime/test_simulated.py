"""The simulated sessions that a model is shown."""

from __future__ import annotations

from fractions import Fraction

from edge_mer.runtime.simulated import N_COMPANY, simulated
from edge_mer.sources.sim_settings import SimSettings
from edge_mer.types.model import ModelSpec, SceneClip
from tests.helpers.tiny_model import tiny_clip, tiny_model


def scene_model() -> ModelSpec:
    """The tiny model, looking at whole pictures of 18 by 32 pixels."""
    declared = tiny_clip().model_dump(exclude={"kind", "size_px", "alignment"})
    clip = SceneClip(height_px=18, width_px=32, **declared)
    visual, audio = tiny_model().encoders
    picture = visual.input.model_copy(update={"shape": ("batch", 3, clip.n_frames, *clip.shape_px)})
    return tiny_model(encoders=(visual.model_copy(update={"preprocess": clip, "input": picture}), audio))


def settings(model: ModelSpec, person: int, keys: str = "") -> SimSettings:
    uri = simulated(model, seed=5, person=person, n_steps=9, keys=keys)
    return SimSettings.parse(uri.removeprefix("sim:"))


def test_one_person_sits_before_a_model_of_faces() -> None:
    found = settings(tiny_model(), 7)
    assert (found.seed, found.person, found.people) == (5, 7, 1)


def test_a_model_of_scenes_sees_a_company_in_a_wide_picture() -> None:
    found = settings(scene_model(), 7, "fps=4")
    assert (found.people, found.fps) == (N_COMPANY, 4)
    assert Fraction(found.width, found.height) == Fraction(16, 9)
    assert found.width >= 64 * found.people


def test_nobody_is_in_two_companies() -> None:
    model = scene_model()
    companies = [settings(model, person) for person in range(20)]
    members = [one.person + k for one in companies for k in range(one.people)]
    assert len(set(members)) == len(members)
