"""URIs: without a password where they are shown."""

from __future__ import annotations

import pytest

from edge_mer.types.uri_keys import shown


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("rtsp://admin:secret@10.0.0.2/stream1", "rtsp://admin:***@10.0.0.2/stream1"),
        ("http://a:b:c@host/x?y=z", "http://a:***@host/x?y=z"),
        ("rtsp://10.0.0.2:554/a@b", "rtsp://10.0.0.2:554/a@b"),
        ("file:clip@home:1.mp4", "file:clip@home:1.mp4"),
        ("sim:seed=3", "sim:seed=3"),
    ],
)
def test_passwords_are_not_shown(uri: str, words: str) -> None:
    assert shown(uri) == words
