"""Ros2Sink: its messages in ROS's own format, and its life on a double of rclpy."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest

from edge_mer.errors import MissingError, UsageError
from edge_mer.sinks import ros2
from edge_mer.sinks.registry import open_sink
from edge_mer.sinks.ros2 import MAX_PUBLISHERS, Ros2Sink
from edge_mer.sinks.ros2_messages import EXPRESSIONS
from edge_mer.types.facts import ModelFacts
from tests.helpers.sent import AFFECT, BUNDLE_ID, PAIN, VOICES, emotion_of, ok, pain_of, withheld

MS = 1_000_000


@pytest.fixture(params=["humble", "jazzy"])
def rclpy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    pytest.importorskip("rosbags.typesys", reason="needs pip install rosbags", exc_type=ImportError)
    from tests.helpers.ros2_double import Rclpy, typestore

    double = Rclpy(typestore(request.param))
    double.install(monkeypatch)
    return double


def opened(uri: str = "ros2:/edge_mer", model: ModelFacts = AFFECT) -> Ros2Sink:
    sink = open_sink(uri)
    assert isinstance(sink, Ros2Sink)
    sink.introduce(model)
    sink.open()
    return sink


def sent(rclpy: Any) -> dict[str, list[Any]]:
    """Topic -> messages, as their readers got them."""
    return {publisher.topic: publisher.sent for publisher in rclpy.nodes[-1].publishers}


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("ros2:edge_mer", "no such names of topics.*ros2:/edge_mer"),
        ("ros2:/5", "no such names"),
        ("ros2:/a?node=a b", "cannot use node="),
        ("ros2:/a?frame=x", "unknown key 'frame'.*did you mean frame_id"),
    ],
)
def test_what_ros_cannot_be_called_is_refused(uri: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        open_sink(uri)


def test_without_ros_it_is_said_where_it_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)
    with pytest.raises(MissingError, match=r"(?s)not from PyPI.*setup\.bash.*system-site-packages") as caught:
        opened()
    assert caught.value.exit_code == 5


def test_an_estimate_in_three_messages(rclpy: Any) -> None:
    sink = opened("ros2:/ward3/bed5?frame_id=camera_link&node=bed5")
    prediction = ok(3, 0.25, -0.5, confidence=0.75, status="degraded", reasons=("audio_missing",))
    sink.write(prediction)
    found = sent(rclpy)
    assert set(found) == {"/diagnostics", "/ward3/bed5/values", "/ward3/bed5/expression"}
    (values,) = found["/ward3/bed5/values"]
    assert values.data.tolist() == [0.25, -0.5]
    (dimension,) = values.layout.dim
    assert (dimension.label, dimension.size, dimension.stride) == ("valence,arousal", 2, 2)
    (expression,) = found["/ward3/bed5/expression"]
    assert (expression.valence, expression.arousal, expression.confidence) == (0.25, -0.5, 0.75)
    assert (expression.expression, expression.header.frame_id) == ("", "camera_link")
    stamp = expression.header.stamp
    assert prediction.utc == "2026-11-21T08:00:01+00:00"
    assert (stamp.sec, stamp.nanosec) == (1_795_248_001, 0)
    (diagnostics,) = found["/diagnostics"]
    (status,) = diagnostics.status
    assert (status.level, status.name) == (status.WARN, "bed5: prediction")
    assert status.message == "degraded: audio_missing"
    told = {value.key: value.value for value in status.values}
    assert told["bundle_id"] == BUNDLE_ID
    assert told["visual.present"] == "true"
    assert (told["window_index"], told["reasons"]) == ("3", "audio_missing")
    sink.close()


def test_a_withheld_prediction_has_no_number(rclpy: Any) -> None:
    sink = opened()
    sink.write(ok(0, 0.25, -0.5))
    sink.write(withheld(1, "audio_missing"))
    found = sent(rclpy)
    assert all(math.isnan(value) for value in found["/edge_mer/values"][1].data)
    expression = found["/edge_mer/expression"][1]
    assert all(math.isnan(value) for value in (expression.valence, expression.arousal))
    assert (expression.confidence, expression.expression) == (0.0, "")
    first, second = (message.status[0] for message in found["/diagnostics"])
    assert (first.level, second.level) == (first.OK, second.ERROR)
    assert math.isnan(found["/edge_mer/expression"][0].confidence)  # nobody measured how sure it is
    sink.close()


def test_pain_and_emotion(rclpy: Any) -> None:
    sink = opened(model=PAIN)
    sink.write(pain_of(0, 0.5, 0.25, 0.25))
    assert set(sent(rclpy)) == {"/diagnostics", "/edge_mer/values"}
    (values,) = sent(rclpy)["/edge_mer/values"]
    assert values.data.tolist() == [0.75, 0.5, 0.25, 0.25]
    assert values.layout.dim[0].label.startswith("pain.expected,pain.level_probs.none,")
    sink.close()
    sink = opened(model=VOICES)
    sink.write(emotion_of(0, 0.75, confidence=0.5))
    (expression,) = sent(rclpy)["/edge_mer/expression"]
    assert (expression.expression, expression.confidence) == ("angry", 0.5)
    assert math.isnan(expression.valence)
    sink.close()


def test_people_have_topics_of_their_own_which_end_without_a_number(rclpy: Any) -> None:
    sink = opened()
    sink.write(ok(0, 0.5, person="p1"))
    sink.write(withheld(1, "nobody_seen"))
    sink.write(withheld(2, "nobody_seen"))
    first, last = sent(rclpy)["/edge_mer/p1/expression"]
    assert first.valence == 0.5
    assert math.isnan(last.valence)
    names = [message.status[0].name for message in sent(rclpy)["/diagnostics"]]
    assert names == [f"edge_mer: prediction{who}" for who in (" of p1", " of p1", "", "")]
    sink.close()


def test_topics_promise_how_often_something_comes(rclpy: Any) -> None:
    sink = opened()
    sink.write(ok(0))
    for publisher in rclpy.nodes[0].publishers:
        qos = publisher.qos
        assert qos.deadline.nanoseconds == 500 * MS
        assert qos.lifespan.nanoseconds == qos.liveliness_lease_duration.nanoseconds == 2000 * MS
        assert (qos.liveliness, qos.reliability, qos.durability) == (
            "MANUAL_BY_TOPIC",
            "RELIABLE",
            "VOLATILE",
        )
    slower = ModelFacts(**{**vars(AFFECT), "interval_s": 2.0})
    sink.introduce(slower)
    sink.write(ok(1))
    old, new = rclpy.nodes[0].publishers[:3], rclpy.nodes[0].publishers[3:]
    assert all(publisher.is_destroyed for publisher in old)
    assert {publisher.qos.deadline.nanoseconds for publisher in new} == {4000 * MS}
    assert {publisher.qos.lifespan.nanoseconds for publisher in new} == {6000 * MS}
    sink.close()


def test_a_node_begins_and_ends_with_the_sink(rclpy: Any) -> None:
    sink = opened("ros2:/a?node=bed5")
    (given,), (node,), (context,) = rclpy.initialised, rclpy.nodes, rclpy.contexts
    assert given == {"args": [], "context": context, "signal_handler_options": "no"}
    assert (node.name, node.options["use_global_arguments"]) == ("bed5", False)
    sink.close()
    sink.close()
    assert node.is_destroyed
    assert not context.is_up


def test_publishers_of_people_who_left_do_not_pile_up(rclpy: Any) -> None:
    sink = opened()
    for index in range(MAX_PUBLISHERS):
        sink.write(ok(index, person=f"p{index + 1}"))
    living = [publisher for publisher in rclpy.nodes[0].publishers if not publisher.is_destroyed]
    assert len(living) == MAX_PUBLISHERS
    assert len(rclpy.nodes[0].publishers) > MAX_PUBLISHERS
    assert "/diagnostics" in {publisher.topic for publisher in living}
    sink.close()


def test_without_ros4hri_its_message_is_left_out(rclpy: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("hri_msgs", "hri_msgs.msg"):
        monkeypatch.setitem(sys.modules, name, None)
    sink = opened()
    sink.write(ok(0))
    assert not sink.has_expression
    assert set(sent(rclpy)) == {"/diagnostics", "/edge_mer/values"}
    sink.close()


def test_expressions_are_those_that_ros4hri_lists() -> None:
    listed = "neutral angry sad happy surprised disgusted scared pleading vulnerable despaired guilty"
    listed += " disappointed embarrassed horrified skeptical annoyed furious suspicious rejected bored tired"
    listed += " asleep confused amazed excited"
    assert set(EXPRESSIONS.values()) <= set(listed.split())
    assert ros2.EXPRESSION == "hri_msgs/msg/Expression"
