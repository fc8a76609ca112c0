"""The live page in a browser: records of a real run, told by the gateway itself."""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs pip install 'edge-mer[daemon]'")

from edge_mer.cli.main import main
from edge_mer.gateway.auth import make_token
from tests.helpers.browser import PACKAGE, Page, browse, find_browser
from tests.helpers.data import ROOT
from tests.helpers.gateway import Gateway
from tests.helpers.live_device import LiveDevice
from tests.helpers.predictions import pain

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(find_browser() is None, reason=f"needs the system package {PACKAGE}"),
]

SIM = "sim:seed=4&person=2&duration_s=4"
NONE = "–"
ALARM = {
    "id": "high-arousal-1",
    "name": "high-arousal",
    "state": "active",
    "since_utc": "2026-11-22T08:00:00+00:00",
    "value": 0.83,
    "threshold": 0.7,
    "person": None,
    "text": "Arousal has been above 0.7 for 5 s.",
}


@pytest.fixture(scope="module")
def records(shared_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What a run gave."""
    out = tmp_path_factory.mktemp("run") / "out.jsonl"
    assert main(["run", str(shared_bundle), "--source", SIM, "--sink", f"jsonl:{out}", "--fast"]) == 0
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def ok(records: list[dict[str, Any]]) -> dict[str, Any]:
    """The run's last record, as one of a live session with intervals."""
    affect = {
        "valence": 0.3721,
        "arousal": -0.5417,
        "interval": {"valence": [-0.1, 0.6], "arousal": [-0.9, 0.1]},
    }
    return {**records[-1], "status": "ok", "reasons": [], "affect": affect}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browse(tmp_path_factory.mktemp("browser") / "profile") as page:
        yield page


@pytest.fixture
def device(records: list[dict[str, Any]], tmp_path: Path) -> Iterator[LiveDevice]:
    """A device that has said what it is, and no prediction."""
    yield from serving(LiveDevice(tmp_path), records)


TOKEN, SHA256 = make_token()


@pytest.fixture
def guarded(records: list[dict[str, Any]], tmp_path: Path) -> Iterator[LiveDevice]:
    """The same, for those who have the token, who may only read."""
    yield from serving(
        LiveDevice(tmp_path, f'[[http.tokens]]\nname = "ward-3"\nsha256 = "{SHA256}"'), records
    )


def serving(device: LiveDevice, records: list[dict[str, Any]]) -> Iterator[LiveDevice]:
    tell_all(device, records)
    device.start()
    yield device
    device.close()


def tell_all(device: LiveDevice, records: list[dict[str, Any]]) -> None:
    device.tell("model", model_of(records))
    device.tell("health", health())
    device.tell("alarms", [])


@pytest.fixture
def page(browser: Page, device: LiveDevice) -> Page:
    """The page, connected."""
    open_page(browser, device)
    return browser


def open_page(browser: Page, device: LiveDevice, **how: Any) -> None:
    browser.open(device.url, **how)
    browser.wait_for(says("#chip-link", "connected"))


AFFECT = [{"kind": "affect", "name": name, "low": -1.0, "high": 1.0} for name in ("valence", "arousal")]


def model_of(records: list[dict[str, Any]]) -> dict[str, Any]:
    last, before = records[-1], records[-2]
    return {
        "name": "jmt-tiny",
        "bundle_id": last["bundle_id"],
        "precision": last["precision"],
        "engine": last["engine"],
        "modalities": list(last["modalities"]),
        "outputs": AFFECT,
        "hop_s": 4 / 15,
        "step_s": 4 / 15,
        "window_s": 64 / 15,
        "latency_s": 0.0,
        "interval_s": (last["t_end_ns"] - before["t_end_ns"]) / 1e9,
    }


def health(**changes: Any) -> dict[str, Any]:
    stream = {"modality": "visual", "state": "ok", "measured_hz": 29.94, "nominal_hz": 30.0}
    told = {
        "state": "serving",
        "trouble": "the disk is full",
        "uptime_s": 90061.0,
        "n_predictions": 338412,
        "n_by_status": {"ok": 301233, "degraded": 30102, "withheld": 7077},
        "n_by_reason": {},
        "latency_ms": {"end_to_end": {"p50": 47.1, "p95": 61.9}, "infer": {"p50": 5.3, "p95": 7.1}},
        "n_dropped_steps": 17,
        "n_late": 0,
        "n_gaps": 0,
        "sources": [
            {"uri": "camera:0", "streams": {"camera/visual": stream}, "n_restarts": 3, "trouble": "was away"}
        ],
        "sinks": [{"target": "jsonl:out.jsonl", "n_dropped": 4, "trouble": ""}],
        "network_sinks": [{"target": "mqtts://broker/ward3", "n_dropped": 9, "trouble": "no broker answers"}],
        "temperature_c": {"cpu-thermal": 51.0},
        "power_w": None,
        "rss_bytes": 412_000_000,
        "recording": None,
        "raw_media": False,
        "swap": {"state": "refused", "bundle_id": "sha256:77aa01bc55ee99", "why": "it is not signed"},
        "bundle_id": None,
        "can_go_back": False,
        "relief": {"level": 0, "why": ""},
    }
    return {**told, **changes}


def withheld(record: dict[str, Any], *reasons: str) -> dict[str, Any]:
    return {**record, "status": "withheld", "reasons": list(reasons), "affect": None, "confidence": None}


def later(record: dict[str, Any], n_steps: int, **changes: Any) -> dict[str, Any]:
    """The same, so many steps later."""
    t_ns = record["t_end_ns"] + n_steps * 266_666_667
    return {**record, "window_index": record["window_index"] + n_steps, "t_end_ns": t_ns, **changes}


def text_of(page: Page, selector: str) -> str:
    """What is to be seen, on one line, with plain blanks."""
    return re.sub(
        r"\s+", " ", page.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")
    ).strip()


def says(selector: str, words: str) -> str:
    """JavaScript: an element shows these words."""
    return f"document.querySelector({json.dumps(selector)}).innerText.includes({json.dumps(words)})"


def value_of(name: str) -> str:
    return f"#affect-courses .of-{name} .value"


def show(page: Page, device: LiveDevice, record: dict[str, Any], verdict: str = "OK") -> None:
    device.tell("prediction", record)
    page.wait_for(says("#verdict", verdict))


# --- what it shows --------------------------------------------------------------------------------


def test_a_run_is_shown_without_a_complaint_and_without_asking_anybody_else(
    page: Page, device: LiveDevice, records: list[dict[str, Any]], ok: dict[str, Any]
) -> None:
    for record in records[:-1]:
        device.tell("prediction", record)
    show(page, device, ok)
    page.wait_for(says(value_of("valence"), "0.37"))
    assert text_of(page, value_of("arousal")) == "−0.54"
    assert text_of(page, ".of-valence .range") == "90 % interval −0.10 to 0.60"
    assert text_of(page, "#name") == "jmt-tiny"
    assert text_of(page, "#modalities").count("present") == 2
    assert f"{ok['latency_ms']['infer']:.1f} 5.3 7.1" in text_of(page, "#latency")
    assert text_of(page, "#dropped") == "17"
    assert "camera:0 working the face 29.9 of 30.0 Hz restarts: 3 last trouble: was away" in text_of(
        page, "#sensors"
    )
    assert "lost: 4" in text_of(page, "#sinks")
    assert all(part in text_of(page, "#sinks") for part in ("mqtts://broker/ward3", "lost: 9", "no broker"))
    device_text, model_text = text_of(page, "#device"), text_of(page, "#model")
    assert (
        "Temperature, cpu-thermal 51.0 °C Power not known Memory 412 MB Running for 25 h 1 min" in device_text
    )
    assert "Trouble the disk is full" in device_text
    assert "a new bundle was refused; 77aa01bc55ee; it is not signed" in model_text
    statuses = [record["status"] for record in [*records[:-1], ok]]
    n_whole = sum(pair == ("ok", "ok") for pair in itertools.pairwise(statuses))
    assert (
        page.evaluate("document.querySelector('.of-valence .line').getAttribute('d')").count("L")
        == n_whole
        > 3
    )
    assert page.evaluate("document.querySelector('#plane .box').getAttribute('d')").startswith("M")
    assert page.complaints() == []
    assert all(url.startswith(device.url) for url in page.requests())


def test_a_band_is_drawn_where_an_interval_is_known(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    unknown = {**ok["affect"], "interval": None}
    for n, affect in enumerate((ok["affect"], ok["affect"], unknown, ok["affect"], ok["affect"])):
        device.tell("prediction", later(ok, n, affect=affect, utc=f"2026-11-22T00:00:0{n}+00:00"))
    page.wait_for(says("#when", "00:00:04"))
    band, line = (
        page.evaluate(f"document.querySelector('.of-arousal .{name}').getAttribute('d')")
        for name in ("band", "line")
    )
    assert (band.count("M"), band.count("L")) == (2, 2 * 3)
    assert (line.count("M"), line.count("L")) == (1, 5)  # a point alone is drawn, too


def test_the_marker_lies_where_the_estimate_is(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    show(page, device, ok)
    page.wait_for("document.querySelector('#plane circle').getAttribute('cx')")
    x, y, side = page.evaluate(
        "(() => { const box = document.querySelector('#plane').getBoundingClientRect();"
        "const dot = document.querySelector('#plane circle').getBoundingClientRect();"
        "return [dot.left + dot.width / 2 - box.left, dot.top + dot.height / 2 - box.top, box.width]; })()"
    )
    assert x / side == pytest.approx((0.3721 + 1) / 2, abs=0.01)
    assert y / side == pytest.approx((1 + 0.5417) / 2, abs=0.01)


def test_an_inline_script_would_be_a_complaint(page: Page) -> None:
    page.evaluate("document.body.append(Object.assign(document.createElement('script'), {textContent: '1'}))")
    assert any("Content Security Policy" in complaint for complaint in page.complaints())


def test_pain_and_emotion_are_shown_where_the_model_has_them(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    outputs = [{**PAIN, "labels": ["l0", "l1", "l2"]}, EMOTION]
    model = {**device.known["model"], "name": "pain-tiny", "outputs": outputs}
    device.tell("model", model)
    emotion = {"calm": 0.25, "tense": 0.75}
    show(
        page,
        device,
        {**ok, "affect": None, "pain": pain(0.5, 0.25, 0.25), "emotion": emotion, "confidence": 0.7},
    )
    page.wait_for(says("#pain-courses .value", "0.75"))
    assert text_of(page, "#pain-levels") == "l0 0.50 l1 0.25 l2 0.25"
    assert text_of(page, "#emotion-classes") == "calm 0.25 tense 0.75"
    assert "sim-0-4" in text_of(page, "#pain")
    assert "70 %" in text_of(page, "#confidence")
    assert page.evaluate("document.querySelector('#affect').hidden")


def test_several_people_each_have_their_own(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    other = {**ok["affect"], "valence": -0.1234}
    device.tell("prediction", {**ok, "person": "p1"})
    show(page, device, {**ok, "person": "p2", "affect": other})
    page.wait_for(says("#people", "p2, ok"))
    assert text_of(page, value_of("valence")) == "0.37"
    assert page.evaluate("document.querySelector('#plane .other text').textContent") == "p2"
    page.evaluate("document.querySelector('#people input:checked').focus()")
    page.press("ArrowRight")
    page.wait_for(says(value_of("valence"), "−0.12"))
    device.tell("prediction", later(ok, 1, person="p1"))
    device.tell("prediction", later(ok, 2, person="p1"))
    page.wait_for(says("#verdict", "p2 is not followed just now"))
    assert text_of(page, value_of("valence")) == NONE
    assert "present" not in text_of(page, "#modalities")
    assert text_of(page, "#people-list") == "p1, ok p2, withheld"
    device.tell("prediction", later(withheld(ok, "nobody_seen"), 3))
    page.wait_for(says("#people", "p1, withheld"))


def test_a_recording_is_said(page: Page, device: LiveDevice) -> None:
    for recording, raw_media, words in (
        (None, False, "not recording"),
        ("a.mcap", None, "recording: a.mcap"),
        ("a.mcap", True, "recording pictures and sound: a.mcap"),
        ("a.mcap", False, "recording, without pictures and sound: a.mcap"),
    ):
        device.tell("health", health(recording=recording, raw_media=raw_media))
        page.wait_for(f"document.querySelector('#chip-recording').innerText.trim() === {json.dumps(words)}")


def test_nothing_told_becomes_html(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    bad = "<img src=x onerror=alert(1)>"
    before = page.evaluate("document.images.length")
    device.tell("model", {**device.known["model"], "name": bad, "modalities": [bad, "constructor"]})
    source = {"uri": bad, "streams": {bad: {"modality": bad, "state": bad}}, "n_restarts": 0, "trouble": bad}
    device.tell("health", health(sources=[source], recording=bad, temperature_c={bad: 1.0}))
    device.tell("alarms", [{**ALARM, "name": bad, "text": bad, "person": bad}])
    status = {"present": True, "coverage": 1.0, "age_ms": 1.0, "source": bad, "quality": bad}
    modalities = {bad: status, "constructor": status}
    show(
        page, device, {**withheld(ok, bad, "__proto__"), "modalities": modalities, "person": bad}, "Withheld"
    )
    page.wait_for(says("#why", "onerror"))
    page.evaluate("document.querySelector('#minute').open = true")
    page.wait_for(says("#minute-rows", "onerror"))
    assert page.evaluate("document.images.length") == before
    assert page.complaints() == []


def test_every_reason_is_known_to_the_page(page: Page) -> None:
    concepts = (ROOT / "docs/concepts.md").read_text(encoding="utf-8")
    table = concepts.split("## Status and reasons")[1].split("\n## ")[0]
    reasons = re.findall(r"^\| `([^`]+)`", table, flags=re.MULTILINE)
    assert len(reasons) > 10
    for reason in [one.replace("<modality>", "audio") for one in reasons]:
        told = page.evaluate(f"import('/page.js').then((page) => page.reasonInWords({json.dumps(reason)}))")
        assert told != reason.replace("_", " "), f"{reason} is not explained"


# --- what must not be believed --------------------------------------------------------------------


def test_withheld_has_a_banner_with_reasons_and_no_old_value(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    said = "document.querySelector('#said').textContent.includes('The voice is missing')"
    show(page, device, ok)
    page.wait_for(says(value_of("valence"), "0.37"))
    wrong = {**withheld(ok, "audio_missing", "audio_stalled"), "affect": ok["affect"]}  # it must not have any
    show(page, device, later(wrong, 1), "Withheld")
    assert text_of(page, "#why") == "The voice is missing; the sensor of the voice gives nothing any more."
    assert "withheld" in page.evaluate("document.querySelector('#state').className")
    assert text_of(page, value_of("valence")) == text_of(page, value_of("arousal")) == NONE
    assert "0.37" not in text_of(page, "main")
    assert page.evaluate("getComputedStyle(document.querySelector('#plane circle')).display") == "none"
    assert page.evaluate("document.querySelector('#plane .box').getAttribute('d')") == ""
    for n in range(2, 60):  # spoken at leisure, while it goes on
        device.tell("prediction", later(withheld(ok, "audio_missing", "audio_stalled"), n))
        if page.evaluate(f"new Promise((done) => setTimeout(() => done({said}), 100))"):
            break
    assert page.evaluate(said)


def test_a_value_does_not_outlive_its_time(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    page.evaluate(
        "(() => { const now = performance.now.bind(performance); window.lateMs = 0;"
        "performance.now = () => now() + window.lateMs; })()"
    )
    show(page, device, ok)
    page.evaluate("window.lateMs = 1500")
    page.wait_for(says("#verdict", "OK"))
    page.evaluate("window.lateMs = 2500")
    page.wait_for(says("#verdict", "No new prediction"))
    assert text_of(page, value_of("valence")) == NONE
    assert text_of(page, "#skew") == NONE
    assert "present" not in text_of(page, "#modalities")


def test_lost_inference_is_said(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    device.tell("prediction", {**ok, "person": "p1"})
    page.wait_for(says("#verdict", "OK"))
    device.hang_up()
    page.wait_for(says("#verdict", "Inference lost"))
    assert "the process that makes estimates is gone" in text_of(page, "#why").lower()
    assert text_of(page, value_of("valence")) == NONE
    page.wait_for(says("#chip-recording", "recording not known"))
    assert "51.0" not in text_of(page, "#device")
    assert "serving" not in text_of(page, "#device")


def test_a_device_that_is_silent_or_gone_is_said_within_three_seconds_and_found_again(
    browser: Page, records: list[dict[str, Any]], ok: dict[str, Any], tmp_path: Path
) -> None:
    device, gateway = LiveDevice(tmp_path), Gateway(tmp_path)
    restarted = None
    try:
        tell_all(device, records)
        gateway.wait()
        browser.open(f"{gateway.url}/")
        browser.wait_for(says("#chip-link", "connected"))
        show(browser, device, ok)
        gateway.process.send_signal(signal.SIGSTOP)  # as if a cable was pulled: nobody hangs up
        assert browser.wait_for(says("#verdict", "No connection")) < 3.0
        assert text_of(browser, value_of("valence")) == NONE
        assert "51.0" not in text_of(browser, "main")
        gateway.process.send_signal(signal.SIGCONT)
        browser.wait_for(says("#chip-link", "connected"), 12.0)
        show(browser, device, later(ok, 20))
        gateway.stop()
        assert browser.wait_for(says("#verdict", "No connection")) < 3.0
        assert text_of(browser, value_of("valence")) == NONE
        restarted = subprocess.Popen(gateway.process.args)
        browser.wait_for(says("#chip-link", "connected"), 12.0)
        assert text_of(browser, value_of("valence")) == NONE
        show(browser, device, later(ok, 40))
    finally:
        for process in filter(None, (gateway.process, restarted)):
            process.kill()
            process.communicate()
        device.close()


# --- what one can do ------------------------------------------------------------------------------

FOCUSED = "document.activeElement.getAttribute('aria-label') ?? document.activeElement.textContent"


def test_an_alarm_is_acknowledged_with_the_keyboard_alone(page: Page, device: LiveDevice) -> None:
    device.tell("alarms", [ALARM])
    page.wait_for(says("#alarm-list", "high-arousal: active"))
    assert "Arousal has been above 0.7" in page.evaluate("document.querySelector('#alarmed').textContent")
    page.wait_for("document.title.startsWith('(1) ')")
    for _ in range(6):
        page.press("Tab")
        if page.evaluate(FOCUSED) == "Acknowledge high-arousal":
            break
    assert page.evaluate(FOCUSED) == "Acknowledge high-arousal"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.press("Enter", "\r")
    page.wait_for("document.activeElement.getAttribute('aria-disabled') === 'false'")
    assert [(ask.what, ask.arguments) for ask in device.asks] == [("acknowledge", {"id": "high-arousal-1"})]
    device.tell("alarms", [{**ALARM, "state": "acknowledged"}])
    page.wait_for(says("#alarm-list", "high-arousal: acknowledged"))
    assert page.evaluate("document.activeElement.tagName") == "H3"
    device.tell("alarms", [])
    page.wait_for("document.querySelector('#alarms').hidden")
    assert page.evaluate("document.activeElement.id") == "main"


def test_whoever_is_not_known_signs_in_and_out_and_may_not_do_everything(
    browser: Page, guarded: LiveDevice, ok: dict[str, Any]
) -> None:
    guarded.tell("alarms", [ALARM])
    browser.open(guarded.url)
    browser.wait_for("document.activeElement.id === 'token'")
    assert "jmt-tiny" not in text_of(browser, "body")
    browser.ask("Input.insertText", text="wrong")
    browser.press("Enter", "\r")
    browser.wait_for(says("#login-error", "not known"))
    browser.ask("Input.insertText", text=TOKEN)
    browser.press("Enter", "\r")
    browser.wait_for(says("#chip-link", "connected"))
    show(browser, guarded, ok)
    assert browser.evaluate("document.querySelector('#token').value + document.cookie") == ""
    browser.evaluate("document.querySelector('#alarm-list button').click()")
    browser.wait_for(says("#alarm-list", "Your token may not acknowledge alarms."))
    assert [ask.what for ask in guarded.asks if ask.what == "acknowledge"] == []
    log_out = "fetch('/v1/logout', {method: 'POST'})"
    log_out += ".then(() => document.querySelector('#alarm-list button').click())"
    for end in (log_out, "document.querySelector('#logout').click()"):  # elsewhere, and here
        browser.evaluate(end)
        browser.wait_for("document.querySelector('#login')?.hidden === false")
        for gone in ("0.37", "jmt-tiny", "high-arousal"):
            assert gone not in browser.evaluate("document.body.textContent")
        browser.ask("Input.insertText", text=TOKEN)
        browser.press("Enter", "\r")
        browser.wait_for(says("#chip-link", "connected"))
        show(browser, guarded, later(ok, len(end)))


def test_the_last_minute_is_a_table_that_holds_still(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    show(page, device, ok)
    page.evaluate("document.querySelector('#minute summary').focus()")
    page.press("Enter", "\r")
    page.wait_for("document.querySelectorAll('#minute-rows tr').length === 1")
    assert "0.37 −0.10 to 0.60 −0.54 −0.90 to 0.10" in text_of(page, "#minute-rows")
    show(page, device, later(withheld(ok, "audio_missing"), 1), "Withheld")
    assert page.evaluate("document.querySelectorAll('#minute-rows tr').length") == 1
    page.evaluate("document.querySelector('#take').click()")
    page.wait_for("document.querySelectorAll('#minute-rows tr').length === 2")
    assert "the voice is missing" in text_of(page, "#minute-rows")


# --- for everybody, and light ---------------------------------------------------------------------

WIDEST = """
Math.max(...[...document.querySelectorAll('body *:not(.unseen, .skip)')]
    .filter((e) => !e.closest('svg, .scroll')).map((e) => e.getBoundingClientRect().right))
"""


PAIN = {"kind": "pain", "scale": "sim-0-4", "labels": ["l0", "l1"]}
EMOTION = {"kind": "emotion", "labels": ["calm", "tense"]}
EVERYTHING = {"outputs": [*AFFECT, PAIN, EMOTION]}
ESTIMATES = {"pain": pain(0.5, 0.5), "emotion": {"calm": 1.0, "tense": 0.0}, "person": "p1"}


def test_it_fits(
    browser: Page, device: LiveDevice, ok: dict[str, Any], records: list[dict[str, Any]]
) -> None:
    device.tell("model", {**model_of(records), **EVERYTHING})
    device.tell("alarms", [ALARM])
    for n, width_px in enumerate((360, 800, 1400, 1920)):
        open_page(browser, device, width_px=width_px)
        show(browser, device, later({**ok, **ESTIMATES}, n))
        browser.wait_for(says("#alarms", "high-arousal"))
        browser.wait_for(says("#emotion-classes", "tense"))
        assert browser.evaluate("document.documentElement.scrollWidth") <= width_px
        assert browser.evaluate(WIDEST) <= width_px


LIGHT = """
  const parts = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => parts(color).slice(0, 3)
    .map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ratio = (...pair) => {
    const [low, high] = pair.map(light).sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
"""
"""How far two colours stand apart, from 1 to 21, as WCAG has it."""

CONTRASTS = f"""
(() => {{
  {LIGHT}
  const behind = (e) => {{
    for (; e; e = e.parentElement) {{
      const {{ backgroundColor }} = getComputedStyle(e);
      if ((parts(backgroundColor)[3] ?? 1) === 1) return backgroundColor;
    }}
    return 'rgb(255, 255, 255)';
  }};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {{
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !e.checkVisibility() || e.closest('.unseen, .skip, svg')) continue;
    found.push([ratio(getComputedStyle(e).color, behind(e)), text.slice(0, 40)]);
  }}
  return found;
}})()
"""
MARKS = f"""
(() => {{
  {LIGHT}
  const made = document.body.appendChild(document.createElement('i'));
  const color = (name) => {{
    made.style.color = `var(--${{name}})`;
    return getComputedStyle(made).color;
  }};
  const found = NAMES.map((name) => [ratio(color('card'), color(name)), name]);
  made.remove();
  return found;
}})()
"""
DRAWN = ["valence", "arousal", "pain", "measure", "edge", "focus", "good", "warn", "bad"]
DRAWN += ["capture", "wait", "preprocess", "infer", "postprocess"]


def test_texts_and_marks_stand_out(
    browser: Page, device: LiveDevice, ok: dict[str, Any], records: list[dict[str, Any]]
) -> None:
    device.tell("model", {**model_of(records), **EVERYTHING})
    device.tell("alarms", [ALARM, {**ALARM, "id": "b", "state": "acknowledged"}])
    device.tell("health", health(recording="a.mcap"))
    looks = itertools.product((False, True), ("ok", "degraded", "withheld"))
    for n, (is_dark, verdict) in enumerate(looks):
        if verdict == "ok":
            open_page(browser, device, is_dark=is_dark)
            marks = browser.evaluate(MARKS.replace("NAMES", json.dumps(DRAWN)))
            assert [one for one in marks if one[0] < 3.0] == []
        device.tell("prediction", later({**ok, **ESTIMATES}, n, status=verdict, reasons=["audio_missing"]))
        browser.wait_for(f"document.querySelector('#state').className === 'state {verdict}'")
        found = browser.evaluate(CONTRASTS)
        assert len(found) > 100
        assert [one for one in found if one[0] < 4.5] == []


def test_what_reads_aloud_finds_names_landmarks_and_headings(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    device.tell("model", {**device.known["model"], **EVERYTHING})
    device.tell("alarms", [ALARM])
    device.tell("prediction", {**ok, **ESTIMATES})
    page.wait_for(says("#people", "p1, ok"))
    page.wait_for(says("#alarms", "high-arousal"))
    nodes = [node for node in page.ask("Accessibility.getFullAXTree")["nodes"] if not node["ignored"]]
    roles: dict[str, list[str]] = {}
    for node in nodes:
        roles.setdefault(node["role"]["value"], []).append(node.get("name", {}).get("value", ""))
    assert {"banner", "main", "contentinfo"} <= set(roles)
    controls = ["button", "textbox", "radio", "image", "region", "table", "DisclosureTriangle", "link"]
    assert [role for role in controls if "" in roles.get(role, [])] == []
    assert roles["radio"] == ["p1, ok"]
    assert "Acknowledge high-arousal" in roles["button"]
    assert any(name.startswith("Valence: now 0.37") for name in roles["image"])
    levels = page.evaluate(
        "[...document.querySelectorAll('h1,h2,h3,h4')].filter((e) => e.checkVisibility())"
        ".map((e) => +e.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    referred = page.evaluate(
        "[...document.querySelectorAll('[aria-labelledby],[aria-describedby]')]"
        ".flatMap((e) => [e.getAttribute('aria-labelledby'), e.getAttribute('aria-describedby')])"
        ".filter(Boolean)"
    )
    assert set(referred) <= set(ids)
    assert (
        page.evaluate('document.querySelectorAll(\'[tabindex]:not([tabindex="0"], [tabindex="-1"])\').length')
        == 0
    )
    loud = page.evaluate(
        "[...document.querySelectorAll('[role=status],[role=alert],[aria-live],output')]"
        ".map((e) => e.innerText)"
    )
    assert not any("0.37" in text for text in loud), "numbers are read aloud again and again"


CHANGES = """
window.changes = 0;
new MutationObserver((list) => { window.changes += list.some((one) => one.attributeName === 'd'); })
    .observe(document.querySelector('.of-valence .line'), {attributes: true});
"""
SECOND = "new Promise((done) => setTimeout(() => done(window.changes), 1000))"


def test_it_draws_at_most_ten_times_a_second_and_not_when_hidden(
    page: Page, device: LiveDevice, ok: dict[str, Any]
) -> None:
    show(page, device, ok)
    page.evaluate(CHANGES)
    for n in range(1, 150):
        device.tell("prediction", later(ok, n, affect={"valence": n / 150, "arousal": 0.0, "interval": None}))
        if n % 3 == 0:
            page.evaluate("new Promise((done) => setTimeout(done, 10))")
    took_s = page.evaluate("performance.now()") / 1000
    n_changes = page.evaluate("window.changes")
    assert 1 <= n_changes <= 10 * took_s + 1
    page.evaluate("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
    page.evaluate("new Promise((done) => setTimeout(done, 200))")
    page.evaluate("window.changes = 0")
    device.tell("prediction", later(ok, 200))
    assert page.evaluate(SECOND) == 0
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for("window.changes > 0")


def test_history_is_bounded(page: Page, device: LiveDevice, ok: dict[str, Any]) -> None:
    for n in range(2040):
        utc = f"2026-11-22T00:{n // 60:02d}:{n % 60:02d}+00:00"
        device.tell("prediction", {**ok, "t_end_ns": ok["t_end_ns"] + n * 10_000_000, "utc": utc})
        if n % 60 == 59:  # the gateway keeps no more for whoever is slow
            page.wait_for(says("#when", utc[11:19]))
    page.evaluate("document.querySelector('#minute').open = true")
    page.wait_for("document.querySelectorAll('#minute-rows tr').length > 0")
    assert page.evaluate("document.querySelectorAll('#minute-rows tr').length") == 2000


def test_nothing_moves_for_whoever_asked_for_that(browser: Page, device: LiveDevice) -> None:
    counts = []
    for is_calm in (False, True):
        open_page(browser, device, is_calm=is_calm)
        device.tell("health", health(recording="a.mcap", raw_media=True))
        browser.wait_for(says("#chip-recording", "pictures"))
        counts.append(browser.evaluate("document.getAnimations().length"))
    assert counts[0] > 0
    assert counts[1] == 0
