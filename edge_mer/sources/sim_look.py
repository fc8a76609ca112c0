"""What stays the same about a simulated person: the looks, drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Colour = tuple[float, float, float]
"""Red, green and blue, each 0 to 255."""

_SKINS: tuple[Colour, ...] = (
    (246, 214, 190),
    (236, 196, 166),
    (222, 178, 142),
    (198, 150, 114),
    (166, 118, 86),
    (134, 92, 68),
)
_HAIRS: tuple[Colour, ...] = (
    (28, 24, 24),
    (58, 40, 30),
    (96, 66, 42),
    (120, 62, 34),
    (128, 124, 122),
    (172, 132, 78),
)
_IRISES: tuple[Colour, ...] = ((58, 36, 24), (84, 56, 32), (70, 92, 66), (72, 98, 124), (52, 40, 34))


@dataclass(frozen=True)
class Look:
    """What stays the same about a person and the room; lengths in face units, colours RGB 0 to 255.

    Attributes:
        skin: Colour of the skin in full light.
        hair: Colour of hair and brows.
        iris: Colour of the irises.
        shirt: Colour of the clothes.
        wall: Colours of the background at its top left and bottom right.
        hair_style: 0 short, 1 long, 2 fringe, 3 nearly bald.
        face_width: Half the width of the face.
        jaw_taper: How much the face narrows towards the chin.
        eye_x: Distance of each eye from the middle.
        eye_y: Height of the eyes.
        eye_size: Half the length of an eye.
        brow_thickness: Thickness of the brows at their middle.
        brow_gap: Distance from the eyes up to the brows.
        nose_width: Half the width of the nose.
        nose_y: Height of the tip of the nose.
        mouth_y: Height of the mouth.
        mouth_width: Half the width of the mouth at rest.
        lip_fullness: Height of a lip.
        stubble: Darkness of the beard's shadow, 0 to 1.
        light: Direction to the light, (x, y), each -1 to 1.
        texture_seed: Seeds hair strands and background structure.
    """

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    wall: tuple[Colour, Colour]
    hair_style: int
    face_width: float
    jaw_taper: float
    eye_x: float
    eye_y: float
    eye_size: float
    brow_thickness: float
    brow_gap: float
    nose_width: float
    nose_y: float
    mouth_y: float
    mouth_width: float
    lip_fullness: float
    stubble: float
    light: tuple[float, float]
    texture_seed: int

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """A random person."""

        def between(low: float, high: float) -> float:
            return float(rng.uniform(low, high))

        def colour(low: float, high: float) -> Colour:
            return between(low, high), between(low, high), between(low, high)

        def one_of(colours: tuple[Colour, ...], spread: float) -> Colour:
            red, green, blue = colours[int(rng.integers(len(colours)))]
            factor = between(1 - spread, 1 + spread)
            return min(red * factor, 255), min(green * factor, 255), min(blue * factor, 255)

        tone = int(rng.integers(len(_SKINS)))
        return cls(
            skin=one_of(_SKINS[tone : tone + 1], 0.05),
            hair=one_of(_HAIRS[: len(_HAIRS) - tone], 0.15),
            iris=one_of(_IRISES, 0.15),
            shirt=colour(40, 190),
            wall=(
                mixed(colour(110, 210), (165, 162, 158), 0.5),
                mixed(colour(80, 170), (120, 118, 116), 0.5),
            ),
            hair_style=int(rng.choice(4, p=(0.35, 0.3, 0.25, 0.1))),
            face_width=between(0.72, 0.80),
            jaw_taper=between(0.12, 0.28),
            eye_x=between(0.315, 0.365),
            eye_y=between(-0.15, -0.08),
            eye_size=between(0.155, 0.18),
            brow_thickness=between(0.05, 0.075),
            brow_gap=between(0.20, 0.245),
            nose_width=between(0.12, 0.165),
            nose_y=between(0.25, 0.31),
            mouth_y=between(0.54, 0.59),
            mouth_width=between(0.25, 0.30),
            lip_fullness=between(0.05, 0.085),
            stubble=between(0.2, 0.8) if rng.random() < 0.3 else 0.0,
            light=(between(-0.45, 0.45), between(-0.5, -0.1)),
            texture_seed=int(rng.integers(2**31)),
        )


def mixed(one: Colour, other: Colour, share: float) -> Colour:
    """A colour between two; `share` is that of the other."""
    red, green, blue = (a + (b - a) * share for a, b in zip(one, other, strict=True))
    return red, green, blue


def scaled(colour: Colour, factor: float) -> Colour:
    """A brighter or darker colour."""
    red, green, blue = colour
    return min(red * factor, 255.0), min(green * factor, 255.0), min(blue * factor, 255.0)
