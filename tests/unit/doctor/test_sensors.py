"""Cameras, microphones and serial ports, and whose groups they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_mer.doctor.access import how_to_open
from edge_mer.doctor.finding import Purpose
from edge_mer.doctor.sensors import cameras, microphones, serial_ports
from edge_mer.doctor.system import System, User
from tests.helpers.recorded_systems import access_of, found, own_group, problems, recorded, workstation

CARDS = """\
 0 [HDA            ]: tegra-hda - NVIDIA Jetson Orin Nano HDA
                      NVIDIA Jetson Orin Nano HDA at 0x3518000 irq 120
 1 [APE            ]: tegra-ape - NVIDIA Jetson Orin Nano APE
                      NVIDIA-NVIDIAJetsonOrinNanoDeveloperKit-NotSpecified-Jetson
 2 [C920           ]: USB-Audio - HD Pro Webcam C920
                      HD Pro Webcam C920 at usb-3610000.usb-2.1, high speed
"""
PCM = """\
00-03: HDMI 0 : HDMI 0 : playback 1
01-00: fe.admaif@290f000.ADMAIF1 (*) : tegra : playback 1 : capture 1
01-01: ADMAIF2 CIF ADMAIF2-1 :  : playback 1 : capture 1
02-00: USB Audio : USB Audio : capture 1
"""


def machine(root: Path, mode: int, groups: str, **facts: object) -> System:
    """A workstation with one camera whose node has `mode`."""
    system = workstation(root, **facts)
    for path, text in {
        "dev/video0": "",
        "sys/class/video4linux/video0/name": "HD Pro Webcam C920\n",
        "sys/class/video4linux/video0/index": "0\n",
        "etc/group": groups,
    }.items():
        place = root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    (root / "dev/video0").chmod(mode)
    return system


def test_cameras_have_names_and_other_nodes_are_left_out(tmp_path: Path) -> None:
    names = {0: "vi-output, imx219 9-0010", 1: "HD Pro Webcam C920", 2: "HD Pro Webcam C920", 10: "Last one"}
    files: dict[str, str | bytes] = {"/dev/video": ""}
    for number, name in names.items():
        files[f"/dev/video{number}"] = ""
        files[f"/sys/class/video4linux/video{number}/name"] = f"{name}\n"
        files[f"/sys/class/video4linux/video{number}/index"] = "1\n" if number == 2 else "0\n"
    assert list(cameras(recorded(tmp_path, files)).items()) == [
        ("/dev/video0", "imx219 (CSI, raw pictures)"),
        ("/dev/video1", "HD Pro Webcam C920"),
        ("/dev/video10", "Last one"),
    ]


def test_microphones_are_what_records_and_not_a_jetsons_bus(tmp_path: Path) -> None:
    system = recorded(tmp_path, {"/proc/asound/cards": CARDS, "/proc/asound/pcm": PCM})
    assert microphones(system) == {"/dev/snd/pcmC2D0c": "HD Pro Webcam C920"}


@pytest.mark.parametrize("text", ["", "--- no soundcards ---\n", "00-0x: a : capture 1\n", ":" * 500, "\0"])
def test_strange_sound_files(tmp_path: Path, text: str) -> None:
    assert microphones(recorded(tmp_path, {"/proc/asound/cards": text, "/proc/asound/pcm": text})) == {}


def test_serial_ports_have_their_adapters_names(tmp_path: Path) -> None:
    system = recorded(tmp_path, {"/dev/ttyUSB0": "", "/dev/ttyACM1": "", "/dev/ttyS0": ""})
    links = tmp_path / "dev/serial/by-id"
    links.mkdir(parents=True)
    (links / "usb-Shimmer_3-if00-port0").symlink_to("../../ttyUSB0")
    assert serial_ports(system) == {"/dev/ttyUSB0": "usb-Shimmer_3-if00-port0", "/dev/ttyACM1": ""}


def test_nothing_plugged_in_is_a_problem_only_for_who_wants_it(tmp_path: Path) -> None:
    system = workstation(tmp_path)
    assert problems(system) == {}
    assert found(system)["camera"].found == "none"
    asked = problems(system, Purpose.camera, Purpose.microphone, Purpose.serial)
    assert set(asked) == {"camera", "microphone", "serial port"}
    (tmp_path / ".dockerenv").touch()
    assert "--device /dev/video0" in str(found(system)["camera"].fix)


def test_who_is_not_in_the_group_joins_it(tmp_path: Path) -> None:
    system = machine(tmp_path, 0o660, own_group("video", "grace"))
    finding = problems(system, Purpose.camera)["camera"]
    assert finding.found == "/dev/video0: HD Pro Webcam C920; ada may not open it"
    assert finding.fix == "sudo usermod -aG video $USER   # then log out and in again"
    assert problems(system) == {}


def test_who_joined_after_the_login_logs_in_again(tmp_path: Path) -> None:
    system = machine(tmp_path, 0o660, own_group("video", "grace", "ada"))
    assert str(found(system)["camera"].fix).startswith("newgrp video ")


def test_who_is_in_the_group_may(tmp_path: Path) -> None:
    user = User("ada", 1000, frozenset({"video"}))
    system = machine(tmp_path, 0o660, own_group("video", "ada"), user=user, access=access_of(user.groups))
    assert found(system)["camera"].status == "ok"


@pytest.mark.parametrize(("mode", "group"), [(0o600, "video"), (0o660, "root")])
def test_a_node_that_no_group_of_users_may_open(tmp_path: Path, mode: int, group: str) -> None:
    text = own_group(group).partition("\n")[2] if group == "root" else own_group(group)
    system = machine(tmp_path, mode, text)
    assert str(found(system)["camera"].fix).startswith("sudo chmod a+rw /dev/video0 ")
    (tmp_path / ".dockerenv").touch()
    assert str(found(system)["camera"].fix).startswith("docker run --group-add ")


def test_several_nodes_ask_for_their_groups_at_once(tmp_path: Path) -> None:
    system = machine(tmp_path, 0o660, own_group("video"))
    (tmp_path / "dev/video1").touch(0o660)
    assert how_to_open(system, ["/dev/video0", "/dev/video1"]).startswith("sudo usermod -aG video $USER ")


def test_a_name_cannot_write_over_the_terminal(tmp_path: Path) -> None:
    system = machine(tmp_path, 0o666, own_group("video"))
    (tmp_path / "sys/class/video4linux/video0/name").write_text("\x1b]0;owned\x07\x1b[2Jcam\u202eera\x9b1m\r")
    text = found(system)["camera"].found
    assert text.isprintable()
    assert text.startswith("/dev/video0: ]0;owned [2Jcam era 1m")
