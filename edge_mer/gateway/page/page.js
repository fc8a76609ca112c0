// The live page: what a device estimates just now, and whether that may be believed.
// Everything from the device becomes text nodes or numbers in paths; nothing of it is ever read as HTML.

const MINUTE_MS = 60_000;
const MAX_POINTS = 2000;
const MAX_PEOPLE = 8;
const QUIET_MS = 1250; // after so long without a word the device is asked whether it is there
const PROBE_MS = 800; // how long it may take, and how often it is asked
const HEALTH_VALID_MS = 3000;
const RETRIES_MS = [500, 1000, 2000, 4000];
const TICK_MS = 250;
const CALM_MS = 2000; // between two things that are read aloud
const REDRAW_MS = 100;
const CHARTS_MS = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 0; // between two drawings of charts
const NONE = "–";

// --- words ------------------------------------------------------------------------------------------

const SENSES = {
  visual: "the face", audio: "the voice", text: "what is said", eda: "skin conductance", ecg: "the electrocardiogram",
  emg: "muscle activity", ppg: "the pulse", rsp: "breathing", skt: "skin temperature",
};
const REASONS = {
  warming_up: "warming up: the model has not seen enough yet",
  face_switched: "another person sat down",
  unaligned_face: "the eyes were not found",
  window_has_gaps: "a part of what the model looks at is missing",
  bad_sync: "the streams lie too far apart in time",
  clock_unknown: "another machine's clock is not known well enough yet",
  nobody_seen: "nobody is seen",
  overloaded: "the machine is too busy",
  hop_lengthened: "the device predicts less often, because it is too hot or too busy",
  cheaper_candidate: "the device computes in fewer bits, because it is too hot or too busy",
  server_away: "the inference server is away: this device stands in for it, or nothing does",
  output_not_finite: "the model gave no number",
  inference_lost: "the process that makes estimates is gone or silent",
};
const REASONS_OF_SENSES = {
  missing: (sense) => `${sense} is missing`,
  gap: (sense) => `${sense} was missing a moment ago`,
  stalled: (sense) => `the sensor of ${sense} gives nothing any more`,
  restarting: (sense) => `the sensor of ${sense} is being opened again`,
  wrong_rate: (sense) => `the sensor of ${sense} gives more or less than it said`,
  spared: (sense) => `${sense} is left out, because the device is too hot or too busy`,
};
const QUALITIES = {
  no_face: "no face found", small_face: "the face is too small", blurred_face: "the face is blurred", black: "the picture is black",
  silent: "silence", clipped: "clipped", flat: "a flat signal", saturated: "at its limit", lead_off: "an electrode is off",
  not_a_number: "no numbers",
};
const SOURCES = {
  ok: "working", starting: "starting", stalled: "gives nothing", wrong_rate: "wrong rate", restarting: "being opened again",
};
const SWAPS = {
  none: "none yet", checking: "checking a new bundle", building: "building engines", warming_up: "warming up the new bundle",
  shadowing: "the new bundle runs beside this one", switched: "switched to this bundle, on trial", kept: "switched to this bundle", refused: "a new bundle was refused",
  rolled_back: "went back to this bundle",
};
const ALARM_STATES = { active: "active", latched: "over, not acknowledged", acknowledged: "acknowledged", ended: "over" };
const STAGES = { capture: "capture", wait: "wait", preprocess: "preprocess", infer: "infer", postprocess: "postprocess", end_to_end: "end to end" };
const AFFECT = { valence: "unpleasant to pleasant", arousal: "calm to excited" };

const word = (table, key) => (Object.hasOwn(table, key) ? table[key] : String(key).replaceAll("_", " "));

export function reasonInWords(reason) {
  if (Object.hasOwn(REASONS, reason)) return REASONS[reason];
  const [, sense, kind] = /^([a-z0-9]+)_(missing|gap|stalled|restarting|wrong_rate|spared)$/.exec(reason) ?? [];
  return kind ? REASONS_OF_SENSES[kind](word(SENSES, sense)) : word({}, reason);
}

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const number = (value, digits = 2) => {
  if (!isNumber(value)) return NONE;
  const text = value.toFixed(digits);
  return (Number(text) === 0 ? text.replace("-", "") : text.replace("-", "−"));
};
const withUnit = (value, digits, unit) => (isNumber(value) ? `${number(value, digits)}\u00a0${unit}` : NONE);
const threeDigits = (value) => {
  if (Math.abs(value) >= 100) return Math.round(value).toLocaleString("en").replace("-", "−");
  return number(value, value === 0 ? 0 : Math.abs(value) < 1 ? 2 : 1);
};
const ms = (value) => (isNumber(value) ? `${threeDigits(value)}\u00a0ms` : NONE);
const count = (value) => (isNumber(value) ? value.toLocaleString("en") : NONE);
const percent = (value) => (isNumber(value) ? `${Math.round(100 * value)}\u00a0%` : NONE);
const range = (interval) => (interval ? `${number(interval[0])} to ${number(interval[1])}` : "not measured");
const bytes = (value) => {
  if (!isNumber(value)) return NONE;
  return value < 1e9 ? `${Math.round(value / 1e6)}\u00a0MB` : `${(value / 1e9).toFixed(2)}\u00a0GB`;
};
const duration = (seconds) => {
  if (!isNumber(seconds)) return NONE;
  const s = Math.max(0, Math.floor(seconds)), m = Math.floor(s / 60), h = Math.floor(m / 60), d = Math.floor(h / 24);
  if (s < 60) return `${s}\u00a0s`;
  if (m < 60) return `${m}\u00a0min ${s % 60}\u00a0s`;
  return h < 48 ? `${h}\u00a0h ${m % 60}\u00a0min` : `${d}\u00a0days ${h % 24}\u00a0h`;
};
const clock = (utc) => (/T(\d\d:\d\d:\d\d)/.exec(utc ?? "") ?? [NONE, NONE])[1];
const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const ageInWords = (age) => (age === null ? "nothing there" : age < 0 ? `${ms(-age)} ahead` : ms(age));
const shortId = (id) => String(id ?? "").replace("sha256:", "").slice(0, 12) || NONE;

// --- elements ---------------------------------------------------------------------------------------

const at = (id) => document.getElementById(id);
const make = (tag, css = "", text = "") => {
  const made = document.createElement(tag);
  if (css) made.className = css;
  if (text) made.textContent = text;
  return made;
};
const draw = (tag, attributes) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
const put = (element, name, value) => { if (element.getAttribute(name) !== value) element.setAttribute(name, value); };
const show = (element, isShown) => { if (element.hidden === Boolean(isShown)) element.hidden = !isShown; };

/** Children of `parent` become those of `items`; one that is there already is kept, with its focus. */
function keyed(parent, items, keyOf, build, fill) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, i) => {
    const key = String(keyOf(item));
    let child = old.get(key);
    if (child === undefined) {
      child = build(item);
      child.dataset.key = key;
    }
    old.delete(key);
    if (parent.children[i] !== child) parent.insertBefore(child, parent.children[i] ?? null);
    fill(child, item);
  });
  old.forEach((child) => child.remove());
}

/** Pairs of name and value in a `dl`. */
function facts(list, pairs) {
  const build = ([name]) => {
    const made = make("div");
    made.append(make("dt", "", name), make("dd"));
    return made;
  };
  keyed(list, pairs, ([name]) => name, build, (made, [, value, css = ""]) => {
    say(made.lastChild, value);
    put(made.lastChild, "class", css);
  });
}

// --- what is known ----------------------------------------------------------------------------------

const state = {
  link: "connecting", // or "open", "lost", "login"
  heardMs: 0,
  retries: 0,
  model: null,
  intervalMs: 1000,
  people: new Map(), // name ("" where one person is followed) -> what is known of it
  chosen: null,
  newestIndex: -1,
  emptyIndex: -1, // of the newest hop in which nobody was seen, if nobody came since
  isInferenceLost: false,
  health: null,
  healthMs: -Infinity,
  alarms: null,
};
let stream = null;
let probedMs = -Infinity;

const nowMs = () => performance.now();
const validMs = () => Math.max(3 * state.intervalMs, 2000);

function takeModel(model) {
  state.model = model;
  if (model.interval_s > 0) state.intervalMs = 1000 * model.interval_s;
}

function takeHealth(health) {
  state.health = health;
  state.healthMs = health.state === "lost" ? -Infinity : nowMs(); // then all but its state is old
}

function takePrediction(record) {
  state.isInferenceLost = record.reasons.includes("inference_lost");
  if (state.isInferenceLost) return;
  const name = record.person ?? "", t = record.t_end_ns / 1e6;
  let person = state.people.get(name);
  if (person === undefined) {
    if (state.people.size >= MAX_PEOPLE) forgetOldest();
    person = { points: [], record: null, atMs: 0 };
    state.people.set(name, person);
  }
  const { points } = person;
  if (points.length && t <= points.at(-1).t) points.length = 0; // the device began anew
  points.push({ t, record });
  while (points.length > MAX_POINTS || points[0].t < t - MINUTE_MS - 2 * state.intervalMs) points.shift();
  person.record = record;
  person.atMs = nowMs();
  state.newestIndex = record.window_index;
  state.emptyIndex = name ? -1 : record.window_index;
  if (!state.people.has(state.chosen) || (name && !state.chosen)) state.chosen = name;
}

function forgetOldest() {
  const [oldest] = [...state.people].sort(([, a], [, b]) => a.atMs - b.atMs)[0];
  state.people.delete(oldest);
}

/** Everything that could look current and is not. */
function forgetValues() {
  for (const person of state.people.values()) person.record = null;
  state.isInferenceLost = false;
  state.health = null;
  state.healthMs = -Infinity;
}

/** Whoever left a minute ago, where somebody else is there. */
function forgetWhoLeft() {
  for (const [name, person] of state.people) {
    if (state.people.size > 1 && nowMs() - person.atMs > MINUTE_MS) state.people.delete(name);
  }
  if (!state.people.has(state.chosen)) state.chosen = named()[0] ?? state.people.keys().next().value ?? null;
}

const named = () => [...state.people.keys()].filter(Boolean).sort();
const healthNow = () => (nowMs() - state.healthMs <= HEALTH_VALID_MS ? state.health : null);

/**
 * What may be said of a person now. `record` is what may be believed, or null; `seen` also holds one that is withheld, as
 * long as it is new; `when` changes while the words stay.
 */
export function judge(name = state.chosen) {
  const nothing = (kind) => (title, why, when = "") => ({ kind, title, why, when, record: null, seen: null });
  const waiting = nothing("waiting"), lost = nothing("withheld");
  if (state.link === "connecting") return waiting("Connecting", "Asking the device for its model.");
  if (state.link !== "open") {
    const when = state.heardMs ? `nothing heard for ${duration((nowMs() - state.heardMs) / 1000)}` : "";
    return lost("No connection to the device", "No value on this page is current. Trying again.", when);
  }
  if (state.isInferenceLost) return lost("Inference lost", `${sentence(REASONS.inference_lost)}. The device is still there and waits for it.`);
  const person = state.people.get(name);
  if (!person?.record) return waiting(state.health?.state === "starting" ? "The device is starting" : "Waiting for a prediction", "There is no estimate yet.");
  const { record } = person, ageMs = nowMs() - person.atMs;
  const isElsewhere = state.newestIndex - record.window_index >= 2 || state.emptyIndex > record.window_index;
  if (name && isElsewhere) return lost(`${name} is not followed just now`, "Left the picture, or cannot be told apart from somebody else.");
  if (ageMs > validMs()) return lost("No new prediction", "The last one does not hold any more.", `it came ${duration(ageMs / 1000)} ago`);
  const why = record.reasons.length ? `${sentence(record.reasons.map(reasonInWords).join("; "))}.` : "";
  const when = `${clock(record.utc)} UTC${record.utc_synchronised ? "" : " (clock not synchronised)"}`;
  if (record.status === "ok") return { kind: "ok", title: "OK", why: "Everything that the model looks at is there.", when, record, seen: record };
  if (record.status === "degraded") return { kind: "degraded", title: "Degraded: a weaker estimate", why, when, record, seen: record };
  return { ...lost("Withheld: no estimate just now", why || "The device gave no reason.", when), seen: record };
}

// --- the line to the device ---------------------------------------------------------------------------

const ask = (path, limitMs = 5000, options = {}) =>
  fetch(path, { cache: "no-store", credentials: "same-origin", signal: AbortSignal.timeout(limitMs), ...options });

async function connect() {
  let answer;
  try {
    answer = await ask("v1/model");
    if (answer.ok) takeModel(await answer.json());
  } catch {
    return lose();
  }
  if (answer.status === 401 || answer.status === 403) return askToSignIn(answer.status === 403);
  listen();
}

function listen() {
  stream = new EventSource("v1/predictions");
  const take = (kind, taken) => stream.addEventListener(kind, (event) => {
    heard();
    taken(JSON.parse(event.data));
    later();
  });
  stream.onopen = () => {
    state.link = "open";
    state.retries = 0;
    heard();
    later();
  };
  stream.onerror = lose;
  take("model", ({ model }) => takeModel(model));
  take("prediction", ({ record }) => takePrediction(record));
  take("health", ({ health }) => takeHealth(health));
  take("alarms", ({ alarms }) => takeAlarms(alarms));
}

function heard() {
  state.heardMs = nowMs();
}

function hangUp() {
  stream?.close();
  stream = null;
}

function lose() {
  hangUp();
  state.link = "lost";
  forgetValues();
  setTimeout(connect, RETRIES_MS[Math.min(state.retries++, RETRIES_MS.length - 1)]);
  later();
}

/** A connection can be dead without anybody being told; so whoever is silent is asked. */
async function probe() {
  if (nowMs() - probedMs < PROBE_MS) return;
  probedMs = nowMs();
  const asked = stream;
  try {
    if (!(await ask("healthz", PROBE_MS)).ok) throw new Error("not well");
  } catch {
    if (asked && asked === stream && nowMs() - state.heardMs > QUIET_MS) lose();
  }
}

// --- signing in and out ---------------------------------------------------------------------------------

function askToSignIn(isForbidden = false) {
  hangUp();
  if (state.model !== null) return location.reload(); // so that nothing is left of what was shown
  state.link = "login";
  say(at("login-error"), isForbidden ? "This token may not read predictions." : "");
  redraw();
  at("token").focus();
}

async function signIn(event) {
  event.preventDefault();
  const token = at("token").value;
  say(at("login-error"), "");
  let answer;
  try {
    answer = await ask("v1/login", 5000, post({ token }));
  } catch {
    return say(at("login-error"), "The device did not answer. Try again.");
  }
  if (!answer.ok) {
    say(at("login-error"), answer.status === 401 ? "This token is not known to the device." : await problem(answer));
    return at("token").select();
  }
  at("token").value = "";
  remember(true);
  state.link = "connecting";
  later();
  at("main").focus();
  connect();
}

async function signOut() {
  try {
    await ask("v1/logout", 5000, post());
  } catch {
    return lose();
  }
  remember(false);
  location.reload();
}

const post = (body = {}) => ({ method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** Only whether this browser signed in, so that it can offer to sign out; the token itself is never kept. */
function remember(isSignedIn) {
  if (isSignedIn) localStorage.setItem("signed-in", "1");
  else localStorage.removeItem("signed-in");
}

async function problem(answer) {
  const { error } = await answer.json().catch(() => ({}));
  return error?.what ? sentence([error.what, error.hint].filter(Boolean).join(". ")) : `The device answered ${answer.status}.`;
}

// --- alarms ---------------------------------------------------------------------------------------------

const isUnheard = ({ state }) => state === "active" || state === "latched";
const alarmName = (alarm) => `${alarm.name}${alarm.person ? ` of ${alarm.person}` : ""}`;

function takeAlarms(alarms) {
  const known = new Set((state.alarms ?? []).filter(isUnheard).map((alarm) => alarm.id));
  const fresh = alarms.filter((alarm) => isUnheard(alarm) && !known.has(alarm.id));
  if (fresh.length) say(at("alarmed"), fresh.map((alarm) => `Alarm: ${alarmName(alarm)}. ${alarm.text}`).join(" "));
  else if (!alarms.some(isUnheard)) say(at("alarmed"), "");
  state.alarms = alarms;
}

async function acknowledge(alarm, item) {
  const button = item.querySelector("button"), error = item.querySelector(".error");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  say(error, "");
  try {
    const answer = await ask(`v1/alarms/${encodeURIComponent(alarm.id)}/acknowledge`, 5000, post());
    if (answer.status === 401) return askToSignIn();
    if (!answer.ok) say(error, answer.status === 403 ? "Your token may not acknowledge alarms." : await problem(answer));
  } catch {
    say(error, "The device did not answer; the alarm is not acknowledged.");
  } finally {
    button.setAttribute("aria-disabled", "false");
  }
}

function buildAlarm(alarm) {
  const item = make("li", "alarm"), words = make("div", "words"), button = make("button", "strong", "Acknowledge");
  words.append(make("h3"), make("p", "text"), make("p", "numbers"), make("p", "error"));
  words.firstChild.tabIndex = -1;
  words.lastChild.setAttribute("role", "alert");
  button.type = "button";
  button.setAttribute("aria-label", `Acknowledge ${alarmName(alarm)}`);
  button.addEventListener("click", () => acknowledge(alarm, item));
  item.append(words, button);
  return item;
}

function fillAlarm(item, alarm) {
  const [title, text, numbers] = item.firstChild.children, button = item.lastChild;
  put(item, "class", `alarm ${isUnheard(alarm) ? "unheard" : ""}`);
  say(title, `${alarmName(alarm)}: ${word(ALARM_STATES, alarm.state)}`);
  say(text, alarm.text ?? "");
  const by = alarm.acknowledged_by ? `; acknowledged by ${alarm.acknowledged_by}` : "";
  say(numbers, `since ${clock(alarm.since_utc)} UTC${by}${alarm.sees === false ? "; the newest prediction says nothing about it" : ""}`);
  if (!isUnheard(alarm) && button === document.activeElement) title.focus();
  show(button, isUnheard(alarm));
}

function drawAlarms() {
  const isKnown = state.link === "open" && state.alarms !== null, alarms = state.alarms ?? [];
  const sorted = [...alarms].sort((a, b) => isUnheard(b) - isUnheard(a));
  const hadFocus = at("alarm-list").contains(document.activeElement);
  show(at("alarms"), alarms.length > 0);
  put(at("alarms"), "class", `card alarms ${alarms.some(isUnheard) ? "unheard" : ""} ${isKnown ? "" : "stale"}`);
  say(at("h-alarms"), isKnown || !alarms.length ? "Alarms" : "Alarms, as last known");
  keyed(at("alarm-list"), sorted, (alarm) => alarm.id, buildAlarm, fillAlarm);
  if (hadFocus && !at("alarm-list").contains(document.activeElement)) at(alarms.length ? "h-alarms" : "main").focus();
  const n = alarms.filter(isUnheard).length;
  chip("alarms", n ? "bad" : isKnown ? "good" : "off", n ? `${n} ${n === 1 ? "alarm" : "alarms"}` : isKnown ? "no alarms" : "alarms not known");
}

// --- charts ---------------------------------------------------------------------------------------------

const sizes = new WeakMap();
const watcher = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) sizes.set(target, contentRect);
  later();
});

/** A drawing in the pixels of its box, with named paths, empty until its size is known. */
function canvas(box, label, paths) {
  const svg = draw("svg", { role: "img", "aria-label": label });
  const made = { box, svg };
  for (const [name, css] of Object.entries(paths)) {
    made[name] = draw("path", { class: css });
    svg.append(made[name]);
  }
  box.prepend(svg);
  watcher.observe(box);
  return made;
}

/** Null where nothing is to be drawn now. */
function sizeOf(chart) {
  const size = sizes.get(chart.box);
  if (!size?.width || !areChartsDue) return null;
  put(chart.svg, "viewBox", `0 0 ${size.width} ${size.height}`);
  return size;
}

const px = (value) => value.toFixed(1);

/** Where times lie: 0 a minute ago, 1 now. The right edge goes on where nothing comes any more. */
function timeline(points) {
  const newest = points.at(-1)?.t ?? 0;
  const person = state.people.get(state.chosen);
  const silentMs = person ? Math.max(0, nowMs() - person.atMs - 1.5 * state.intervalMs) : 0;
  const edge = newest + silentMs;
  return (t) => 1 - (edge - t) / MINUTE_MS;
}

/** Spans of time in which `isSo` holds, joined, as [begin, end] from 0 to 1. */
function spansWhere(points, x, isSo) {
  const spans = [], step = state.intervalMs;
  let last = null;
  for (const point of points) {
    if (!isSo(point)) continue;
    const begin = Math.max(0, x(point.t - step)), end = x(point.t);
    if (end <= 0) continue;
    if (last && begin - last[1] < (0.6 * step) / MINUTE_MS) last[1] = end;
    else spans.push((last = [begin, end]));
  }
  return spans;
}

const rectangles = (spans, width, top, bottom) =>
  spans.map(([begin, end]) => `M${px(begin * width)} ${top}H${px(end * width)}V${bottom}H${px(begin * width)}Z`).join("");

/** Runs of points that follow each other without a gap. */
function runsOf(points, x, valueOf, step = state.intervalMs) {
  const runs = [];
  let last = null;
  for (const point of points) {
    const value = valueOf(point.record), at = x(point.t);
    if (value === null || at < 0) { last = null; continue; }
    if (!last || point.t - last.t > 1.6 * step) runs.push([]);
    last = point;
    runs.at(-1).push({ at, value, record: point.record });
  }
  return runs;
}

const TICKS = [["−60 s", 0], ["−45 s", 0.25, "minor"], ["−30 s", 0.5], ["−15 s", 0.75, "minor"], ["now", 1]];

function buildCourse(parent, name, title, remark, color) {
  const course = make("div", `course of-${color}`), heading = make("h3", "", title), reading = make("p", "reading");
  heading.append(make("span", "remark", remark));
  const value = make("b", "value", NONE), interval = make("span", "range");
  reading.append(value, interval);
  const frame = make("div", "frame"), yAxis = make("div", "y"), plot = make("div", "plot"), xAxis = make("div", "x");
  for (const axis of [yAxis, xAxis]) axis.setAttribute("aria-hidden", "true");
  for (const [text, at, css = ""] of TICKS) {
    const tick = make("span", css, text);
    tick.style.left = `${100 * at}%`;
    xAxis.append(tick);
  }
  frame.append(yAxis, plot, xAxis);
  course.append(heading, reading, frame);
  parent.append(course);
  const chart = canvas(plot, title, { grid: "grid", withheld: "hatch", band: "band", line: "line", weak: "line weak", tip: "dot" });
  return { ...chart, name, title, course, value, interval, yAxis };
}

function hatched(spans, width, height) {
  return spans.map(([begin, end]) => {
    const left = begin * width, right = end * width;
    let path = `M${px(left)} 0V${height}M${px(right)} 0V${height}`;
    const first = Math.ceil((left - height) / 7) * 7; // on one grid for all spans, so that it does not crawl
    for (let foot = first; foot < right; foot += 7) {
      const from = Math.max(foot, left), to = Math.min(foot + height, right);
      if (to > from) path += `M${px(from)} ${px(height - (from - foot))}L${px(to)} ${px(height - (to - foot))}`;
    }
    return path;
  }).join("");
}

/** `pick(record)` gives { value, interval } or null. */
function drawCourse(chart, points, low, high, verdict, pick, digits = 2) {
  const now = verdict.record ? pick(verdict.record) : null;
  say(chart.value, now ? number(now.value, digits) : NONE);
  say(chart.interval, now ? `90 % interval ${range(now.interval)}` : "no estimate");
  put(chart.course, "class", `${chart.course.className.split(" ").slice(0, 2).join(" ")} ${now ? verdict.kind : "off"}`);
  const size = sizeOf(chart);
  if (!size) return;
  const { width, height } = size, x = timeline(points);
  const y = (value) => px(height - ((Math.min(high, Math.max(low, value)) - low) / (high - low)) * height);
  const isCounted = Number.isInteger(high - low) && high - low > 2 && high - low <= 8;
  const levels = isCounted ? Array.from({ length: high - low + 1 }, (_, i) => low + i) : [low, (low + high) / 2, high];
  keyed(chart.yAxis, levels, (level) => level, () => make("span"), (label, level) => {
    say(label, number(level, Number.isInteger(level) ? 0 : 1));
    label.style.top = `${100 - (100 * (level - low)) / (high - low)}%`;
  });
  put(chart.grid, "d", levels.map((level) => `M0 ${y(level)}H${width}`).join("") + TICKS.map(([, at]) => `M${px(at * width)} 0V${height}`).join(""));
  const gone = spansWhere(points, x, ({ record }) => record.status === "withheld");
  const end = points.length ? x(points.at(-1).t) : 1;
  if (end < 1) gone.push([Math.max(0, end), 1]);
  put(chart.withheld, "d", hatched(gone, width, height));
  const runs = runsOf(points, x, (record) => (record.status === "withheld" ? null : pick(record)));
  const known = runsOf(points, x, (record) => (record.status === "withheld" ? null : (pick(record)?.interval ?? null)));
  put(chart.band, "d", known.map((run) => {
    const edge = (side) => run.map(({ at, value }) => `${px(at * width)} ${y(value[side])}`);
    return `M${edge(1).join("L")}L${edge(0).reverse().join("L")}Z`;
  }).join(""));
  const paths = { ok: "", degraded: "" };
  for (const run of runs) {
    run.forEach(({ at, value, record }, i) => {
      const before = run[Math.max(0, i - 1)], part = record.status === "ok" && before.record.status === "ok" ? "ok" : "degraded";
      paths[part] += `M${px(before.at * width)} ${y(before.value.value)}L${px(at * width)} ${y(value.value)}`;
    });
  }
  put(chart.line, "d", joined(paths.ok));
  put(chart.weak, "d", joined(paths.degraded));
  put(chart.tip, "d", now && points.length ? `M${px(x(points.at(-1).t) * width)} ${y(now.value)}h0` : "");
  const seen = runs.flat().map(({ value }) => value.value);
  const past = seen.length ? `last minute from ${number(Math.min(...seen), digits)} to ${number(Math.max(...seen), digits)}` : "no estimate in the last minute";
  put(chart.svg, "aria-label", `${chart.title}: ${now ? `now ${number(now.value, digits)}` : "no estimate now"}, ${past}`);
}

/** Segments that go on where the one before ended become one line, so that its dashes do not begin anew. */
function joined(path) {
  let end = null;
  return path.replace(/M([^ML]+)L([^ML]+)/g, (_, from, to) => {
    const part = from === end ? `L${to}` : `M${from}L${to}`;
    end = to;
    return part;
  });
}

const AGES = 6;

function buildPlane() {
  const paths = { grid: "grid", axes: "axis" };
  for (let age = 0; age < AGES; age++) paths[`trail${age}`] = `trail age-${age}`;
  const plane = canvas(at("plane"), "Valence and arousal", { ...paths, interval: "box", hairV: "hair of-valence", hairA: "hair of-arousal" });
  plane.others = draw("g", {});
  plane.marker = draw("circle", { class: "marker", r: 7 });
  plane.svg.append(plane.others, plane.marker);
  return plane;
}

function drawPlane(plane, points, verdict) {
  const size = sizeOf(plane);
  if (!size) return;
  const { width, height } = size, time = timeline(points);
  const share = (value, [low, high]) => Math.min(1, Math.max(0, (value - low) / (high - low)));
  const valences = rangeOf("valence"), arousals = rangeOf("arousal");
  const x = (valence) => px(share(valence, valences) * width), y = (arousal) => px((1 - share(arousal, arousals)) * height);
  const lines = (shares) => shares.map((part) => `M${px(part * width)} 0V${height}M0 ${px(part * height)}H${width}`).join("");
  put(plane.grid, "d", lines([0.25, 0.75]));
  put(plane.axes, "d", lines([0.5]));
  const trails = Array(AGES).fill("");
  for (const run of runsOf(points, time, (record) => both(record.affect))) {
    run.slice(1).forEach(({ at, value }, i) => {
      const age = Math.min(AGES - 1, Math.max(0, Math.floor((1 - at) * AGES)));
      trails[age] += `M${x(run[i].value.valence)} ${y(run[i].value.arousal)}L${x(value.valence)} ${y(value.arousal)}`;
    });
  }
  trails.forEach((trail, age) => put(plane[`trail${age}`], "d", joined(trail)));
  const now = verdict.record && both(verdict.record.affect);
  plane.marker.toggleAttribute("hidden", !now);
  put(plane.marker, "class", `marker ${now ? verdict.kind : "gone"}`);
  put(plane.hairV, "d", now ? `M${x(now.valence)} ${height}V${y(now.arousal)}` : "");
  put(plane.hairA, "d", now ? `M0 ${y(now.arousal)}H${x(now.valence)}` : "");
  if (now) {
    put(plane.marker, "cx", x(now.valence));
    put(plane.marker, "cy", y(now.arousal));
  }
  const box = now?.interval;
  put(plane.interval, "d", box ? `M${x(box.valence[0])} ${y(box.arousal[0])}H${x(box.valence[1])}V${y(box.arousal[1])}H${x(box.valence[0])}Z` : "");
  const others = named().filter((name) => name !== state.chosen).map((name) => [name, both(judge(name).record?.affect)]).filter(([, affect]) => affect);
  keyed(plane.others, others, ([name]) => name, buildOther, (group, [, affect]) => {
    put(group, "transform", `translate(${x(affect.valence)} ${y(affect.arousal)})`);
  });
  put(plane.svg, "aria-label", now ? `Valence ${number(now.valence)}, arousal ${number(now.arousal)}` : "No estimate of valence and arousal now");
}

const both = (affect) => (isNumber(affect?.valence) && isNumber(affect?.arousal) ? affect : null);

function buildOther([name]) {
  const group = draw("g", { class: "other" }), label = draw("text", { x: 9, y: 4 });
  label.textContent = name;
  group.append(draw("circle", { r: 4.5 }), label);
  return group;
}

const SHADES = 5;

/** A row's last minute as a strip: the darker, the nearer to 1. */
function drawStrip(strip, points, shareOf) {
  const x = timeline(points), size = sizeOf(strip);
  if (!size) return;
  for (let shade = 0; shade < SHADES; shade++) {
    const spans = spansWhere(points, x, ({ record }) => {
      const share = shareOf(record);
      return share !== null && share > 0.02 && Math.min(SHADES - 1, Math.floor(share * SHADES)) === shade;
    });
    put(strip[`shade${shade}`], "d", rectangles(spans, size.width, 0, size.height));
  }
  const gone = spansWhere(points, x, ({ record }) => shareOf(record) === null);
  const end = points.length ? x(points.at(-1).t) : 1;
  if (end < 1) gone.push([Math.max(0, end), 1]);
  put(strip.none, "d", hatched(gone, size.width, size.height));
}

const strips = new WeakMap();

function buildStrip(owner, box) {
  const paths = { none: "hatch" };
  for (let shade = 0; shade < SHADES; shade++) paths[`shade${shade}`] = `shade-${shade}`;
  const strip = canvas(box, "", paths);
  strip.svg.removeAttribute("role");
  strip.svg.removeAttribute("aria-label");
  strip.svg.setAttribute("aria-hidden", "true");
  strips.set(owner, strip);
}

// --- the cards ------------------------------------------------------------------------------------------

const plane = buildPlane();
const courses = {
  valence: buildCourse(at("affect-courses"), "valence", "Valence", AFFECT.valence, "valence"),
  arousal: buildCourse(at("affect-courses"), "arousal", "Arousal", AFFECT.arousal, "arousal"),
  pain: buildCourse(at("pain-courses"), "pain", "Expected level", "0 is the lowest", "pain"),
};

function chip(name, css, text) {
  const made = at(`chip-${name}`);
  put(made, "class", `chip ${css}`);
  say(made.lastElementChild, text);
}

function drawHead(verdict) {
  const health = healthNow(), isLogin = state.link === "login";
  show(at("login"), isLogin);
  show(at("board"), !isLogin);
  show(at("logout"), !isLogin && localStorage.getItem("signed-in") !== null);
  say(at("name"), state.model?.name ?? "Live page");
  const link = { open: ["good", "connected"], lost: ["bad", "no connection"], connecting: ["off", "connecting"], login: ["off", "not signed in"] };
  chip("link", ...link[state.link]);
  if (!health) chip("recording", "off", "recording not known");
  else if (!health.recording) chip("recording", "good", "not recording");
  else if (health.raw_media === false) chip("recording", "warn recording", `recording, without pictures and sound: ${health.recording}`);
  else chip("recording", "bad recording", `recording${health.raw_media ? " pictures and sound" : ""}: ${health.recording}`);
  put(at("state"), "class", `state ${verdict.kind}`);
  say(at("verdict"), verdict.title);
  say(at("why"), verdict.why);
  say(at("when"), verdict.when);
}

function drawPeople() {
  const names = named();
  show(at("people"), names.length > 0);
  keyed(at("people-list"), names, (name) => name, (name) => {
    const label = make("label"), input = make("input");
    input.type = "radio";
    input.name = "person";
    input.addEventListener("change", () => {
      state.chosen = name;
      later();
    });
    label.append(input, make("span", "lamp"), make("span", "text"));
    return label;
  }, (label, name) => {
    const { kind } = judge(name);
    label.firstChild.checked = name === state.chosen;
    put(label, "class", kind);
    say(label.lastChild, `${name}, ${kind}`);
  });
}

const affectOf = (name) => ({ affect }) =>
  isNumber(affect?.[name]) ? { value: affect[name], interval: affect.interval?.[name] ?? null } : null;

const rangeOf = (name) => {
  const { low = -1, high = 1 } = state.model?.outputs.find((output) => output.name === name) ?? {};
  return [low, high];
};
const declared = (kind) => (state.model?.outputs ?? []).find((output) => output.kind === kind);

function outputs(points) {
  if (state.model) return new Set(state.model.outputs.map(({ kind, name }) => (kind === "affect" ? name : kind)));
  const found = new Set();
  for (const { record } of points) {
    for (const name of Object.keys(AFFECT)) if (isNumber(record.affect?.[name])) found.add(name);
    if (record.pain) found.add("pain");
    if (record.emotion) found.add("emotion");
  }
  return found;
}

function newestWith(points, pick) {
  for (let i = points.length - 1; i >= 0; i--) if (pick(points[i].record)) return pick(points[i].record);
  return null;
}

function drawEstimates(points, verdict) {
  const has = outputs(points);
  show(at("affect"), has.has("valence") || has.has("arousal"));
  show(at("plane-figure"), has.has("valence") && has.has("arousal"));
  show(at("pain"), has.has("pain"));
  show(at("emotion"), has.has("emotion"));
  if (has.has("valence") && has.has("arousal")) drawPlane(plane, points, verdict);
  for (const name of Object.keys(AFFECT)) {
    show(courses[name].course, has.has(name));
    if (has.has(name)) drawCourse(courses[name], points, ...rangeOf(name), verdict, affectOf(name));
  }
  if (has.has("pain")) drawPain(points, verdict);
  if (has.has("emotion")) drawClasses(at("emotion-classes"), points, verdict, (record) => record.emotion, labelsOf("emotion"));
  const hasClasses = has.has("pain") || has.has("emotion"), confidence = verdict.record?.confidence;
  show(at("confidence"), hasClasses);
  if (hasClasses) say(at("confidence"), `Confidence in the likeliest class or level: ${verdict.record ? (isNumber(confidence) ? percent(confidence) : "not measured") : NONE}`);
}

const labelsOf = (kind) => declared(kind)?.labels ?? null;

function drawPain(points, verdict) {
  const last = newestWith(points, (record) => record.pain);
  const names = labelsOf("pain") ?? Object.keys(last?.level_probs ?? {});
  const top = Math.max(1, names.length - 1);
  say(at("pain-scale"), `scale ${declared("pain")?.scale ?? last?.scale ?? NONE}`);
  drawCourse(courses.pain, points, 0, top, verdict, ({ pain }) => (pain ? { value: pain.expected, interval: null } : null), 2);
  say(courses.pain.interval, verdict.record?.pain ? `levels, of 0 to ${top}` : "no estimate");
  drawClasses(at("pain-levels"), points, verdict, (record) => record.pain?.level_probs, names);
}

function drawClasses(body, points, verdict, pick, labels) {
  const names = labels ?? Object.keys(newestWith(points, pick) ?? {}), now = verdict.record ? pick(verdict.record) : null;
  const highest = now ? Math.max(...Object.values(now)) : null;
  keyed(body, names, (name) => name, (name) => {
    const row = make("tr"), head = make("th", "", name), strip = make("td", "strip"), cell = make("td", "n");
    head.scope = "row";
    const box = make("div", "plot"), bar = make("span", "bar");
    strip.append(box);
    bar.setAttribute("aria-hidden", "true");
    bar.append(make("i"));
    cell.append(bar, make("span", "value"));
    row.append(head, strip, cell);
    buildStrip(row, box);
    return row;
  }, (row, name) => {
    const share = now?.[name];
    say(row.lastChild.lastChild, isNumber(share) ? number(share) : NONE);
    row.lastChild.firstChild.firstChild.style.width = isNumber(share) ? `${100 * share}%` : "0";
    put(row, "class", isNumber(share) && share === highest ? "first" : "");
    drawStrip(strips.get(row), points, (record) => {
      const shares = record.status === "withheld" ? null : pick(record);
      return isNumber(shares?.[name]) ? shares[name] : null;
    });
  });
}

function buildModality(name) {
  const item = make("li", "modality"), heading = make("h3", "", sentence(word(SENSES, name)));
  const badge = make("p", "badge"), box = make("div", "plot"), list = make("dl", "inline");
  heading.append(make("span", "remark", name));
  item.append(heading, badge, box, list);
  buildStrip(item, box);
  return item;
}

function drawModalities(points, record) {
  const newest = points.at(-1)?.record.modalities ?? {};
  const names = state.model?.modalities ?? Object.keys(newest);
  show(at("modalities-empty"), names.length === 0);
  keyed(at("modalities"), names, (name) => name, buildModality, (item, name) => {
    const [, badge, , list] = item.children, told = record?.modalities[name];
    say(badge, told ? (told.present ? "present" : "missing") : NONE);
    put(badge, "class", `badge ${told ? (told.present ? "good" : "bad") : "off"}`);
    const source = told?.source ? word(SOURCES, told.source) : told ? "recording" : NONE;
    facts(list, [
      ["coverage", told ? percent(told.coverage) : NONE],
      ["age", told ? ageInWords(told.age_ms) : NONE],
      ["source", source, told?.source && told.source !== "ok" ? "bad" : ""],
      ["quality", told ? (told.quality ? word(QUALITIES, told.quality) : told.present ? "good" : "not known") : NONE, told?.quality ? "bad" : ""],
    ]);
    drawStrip(strips.get(item), points, (one) => {
      const seen = one.modalities[name];
      return seen?.present ? Math.max(0.05, seen.coverage) : null;
    });
  });
}

const PARTS = ["wait", "preprocess", "infer", "postprocess"];

function drawTime(record) {
  const health = healthNow();
  say(at("skew"), record ? ms(record.sync.skew_ms) : NONE);
  const uncertainty = record?.sync.uncertainty_ms;
  say(at("uncertainty"), record ? (uncertainty === null ? "not known yet" : `${ms(uncertainty)}${record.sync.warming_up ? ", warming up" : ""}`) : NONE);
  const latency = record?.latency_ms;
  say(at("end-to-end"), latency ? ms(latency.end_to_end) : NONE);
  keyed(at("stack"), latency ? PARTS : [], (part) => part, (part) => make("i", `stage-${part}`), (piece, part) => {
    piece.style.flexGrow = String(Math.max(0, latency[part] ?? 0));
  });
  keyed(at("latency"), Object.keys(STAGES), (stage) => stage, (stage) => {
    const row = make("tr"), head = make("th");
    head.scope = "row";
    const swatch = make("i", `swatch stage-${stage}`);
    swatch.setAttribute("aria-hidden", "true");
    head.append(swatch, STAGES[stage]);
    row.append(head, make("td", "n"), make("td", "n"), make("td", "n"));
    return row;
  }, (row, stage) => {
    const [, now, p50, p95] = row.children, told = health?.latency_ms?.[stage];
    say(now, isNumber(latency?.[stage]) ? threeDigits(latency[stage]) : NONE);
    say(p50, isNumber(told?.p50) ? threeDigits(told.p50) : NONE);
    say(p95, isNumber(told?.p95) ? threeDigits(told.p95) : NONE);
  });
  for (const [id, key] of [["dropped", "n_dropped_steps"], ["late", "n_late"], ["gaps", "n_gaps"]]) say(at(id), count(health?.[key]));
}

function drawMachine() {
  const health = healthNow(), told = state.health ?? {};
  show(at("sensors-empty"), !told.sources?.length);
  keyed(at("sensors"), told.sources ?? [], (source) => source.uri, (source) => {
    const item = make("li", "thing");
    item.append(make("h3", "uri", source.uri), make("ul", "streams"), make("p", "remark"), make("p", "error"));
    return item;
  }, (item, source) => {
    const [, list, restarts, trouble] = item.children;
    keyed(list, Object.entries(source.streams ?? {}), ([name]) => name, () => {
      const row = make("li");
      row.append(make("span", "badge"), make("span", "name"), make("span", "rate"));
      return row;
    }, (row, [, stream]) => {
      const [badge, name, rate] = row.children;
      say(badge, health ? word(SOURCES, stream.state) : NONE);
      put(badge, "class", `badge ${health ? (stream.state === "ok" ? "good" : "bad") : "off"}`);
      say(name, word(SENSES, stream.modality));
      const nominal = isNumber(stream.nominal_hz) ? ` of ${threeDigits(stream.nominal_hz)}` : "";
      say(rate, health && isNumber(stream.measured_hz) ? `${threeDigits(stream.measured_hz)}${nominal}\u00a0Hz` : `${NONE}${nominal}\u00a0Hz`);
    });
    say(restarts, health ? `restarts: ${count(source.n_restarts)}` : `restarts: ${NONE}`);
    const isWell = Object.values(source.streams ?? {}).every((stream) => stream.state === "ok");
    say(trouble, health && source.trouble ? `${isWell ? "last trouble: " : ""}${source.trouble}` : "");
    put(trouble, "class", isWell ? "remark" : "error");
  });
  keyed(at("sinks"), [...(told.sinks ?? []), ...(told.network_sinks ?? [])], (sink) => sink.target, (sink) => {
    const item = make("li", "thing");
    item.append(make("h3", "uri", sink.target), make("p", "remark"), make("p", "error"));
    return item;
  }, (item, sink) => {
    say(item.children[1], `output; lost: ${health ? count(sink.n_dropped) : NONE}`);
    say(item.children[2], health ? sink.trouble || "" : "");
  });
  const temperatures = Object.entries(health?.temperature_c ?? {});
  const byStatus = health?.n_by_status ?? {};
  facts(at("device"), [
    ["State", health ? word({}, health.state) : NONE],
    ...(health?.trouble ? [["Trouble", health.trouble, "bad"]] : []),
    ...(temperatures.length
      ? temperatures.map(([name, celsius]) => [`Temperature, ${name}`, withUnit(celsius, 1, "°C")])
      : [["Temperature", health ? "not known" : NONE]]),
    ["Power", health ? (isNumber(health.power_w) ? withUnit(health.power_w, 1, "W") : "not known") : NONE],
    ["Memory", health ? bytes(health.rss_bytes) : NONE],
    ["Running for", health ? duration(health.uptime_s) : NONE],
    ["Predictions", health ? count(health.n_predictions) : NONE],
    ...["ok", "degraded", "withheld"].map((status) => [`of these ${status}`, health ? count(byStatus[status] ?? 0) : NONE]),
    ...(health?.server ? [["Inference server", health.server.state === "ok" ? `${health.server.name} runs the model` : `${health.server.name}: ${health.server.why}`, health.server.state === "ok" ? "" : "bad"]] : []),
    ["Relief", health ? (health.relief?.level ? `level ${health.relief.level}: ${health.relief.why}` : "none needed") : NONE, health?.relief?.level ? "bad" : ""],
  ]);
}

function drawModel() {
  const health = healthNow(), { model } = state, swap = health?.swap;
  const record = state.link === "open" ? state.people.get(state.chosen)?.record : null;
  const swapText = swap ? [word(SWAPS, swap.state), swap.bundle_id ? shortId(swap.bundle_id) : "", swap.why].filter(Boolean).join("; ") : NONE;
  facts(at("model"), [
    ["Name", model?.name ?? NONE],
    ["Bundle", shortId(health?.bundle_id ?? record?.bundle_id)],
    ["Bundle before it", health ? (health.can_go_back ? "kept, can be taken again" : "none") : NONE],
    ["Swap", swapText, swap && ["refused", "rolled_back"].includes(swap.state) ? "bad" : ""],
    ["Precision", record?.precision ?? NONE],
    ["Engine", record?.engine ?? NONE],
    ["One prediction per", `${threeDigits(state.intervalMs / 1000)}\u00a0s`],
    ["Looks back on", isNumber(Number(model?.window_s ?? NaN)) ? `${threeDigits(Number(model.window_s))}\u00a0s` : NONE],
    ["Looks ahead by", isNumber(Number(model?.latency_s ?? NaN)) ? `${threeDigits(Number(model.latency_s))}\u00a0s` : NONE],
  ]);
}

/** The numbers of the charts; taken when asked for, so that nothing moves under whoever reads it. */
function takeMinute() {
  const points = state.people.get(state.chosen)?.points ?? [], has = outputs(points);
  const columns = [["UTC", (record) => clock(record.utc)], ["Status", (record) => record.status]];
  for (const name of Object.keys(AFFECT)) {
    if (!has.has(name)) continue;
    columns.push([sentence(name), (record) => number(record.affect?.[name])]);
    columns.push(["90 %", (record) => (record.affect?.interval?.[name] ? range(record.affect.interval[name]) : NONE)]);
  }
  if (has.has("pain")) columns.push(["Expected pain", (record) => number(record.pain?.expected)]);
  if (has.has("emotion")) columns.push(["Likeliest class", (record) => likeliest(record.emotion)]);
  columns.push(["Reasons", (record) => record.reasons.map(reasonInWords).join("; ")]);
  at("minute-head").replaceChildren(...columns.map(([name]) => {
    const head = make("th", "", name);
    head.scope = "col";
    return head;
  }));
  at("minute-rows").replaceChildren(...[...points].reverse().map(({ record }) => {
    const row = make("tr");
    row.append(...columns.map(([, text]) => make("td", "", text(record))));
    return row;
  }));
  say(at("minute-caption"), `Estimates${state.chosen ? ` of ${state.chosen}` : ""}, newest first`);
  say(at("taken"), `${points.length} predictions, as they were when this was taken`);
}

function likeliest(shares) {
  if (!shares) return NONE;
  const [name, share] = Object.entries(shares).reduce((best, one) => (one[1] > best[1] ? one : best));
  return `${name} ${number(share)}`;
}

// --- drawing, at most ten times a second, and not at all where nobody looks ------------------------------

let drawnMs = -Infinity;
let waiting = 0;
let areChartsDue = true;
let chartsMs = -Infinity;
let shownTitle = "";
let saidMs = -Infinity;

function later() {
  if (waiting || document.hidden) return;
  waiting = setTimeout(() => requestAnimationFrame(redraw), Math.max(0, drawnMs + REDRAW_MS - nowMs()));
}

function redraw() {
  waiting = 0;
  drawnMs = nowMs();
  const verdict = judge(), points = state.people.get(state.chosen)?.points ?? [];
  areChartsDue = nowMs() - chartsMs >= CHARTS_MS || verdict.title !== shownTitle;
  if (areChartsDue) chartsMs = nowMs();
  shownTitle = verdict.title;
  put(document.body, "class", state.link === "lost" ? "lost" : "");
  drawHead(verdict);
  drawAlarms();
  drawPeople();
  drawEstimates(points, verdict);
  drawModalities(points, verdict.seen);
  drawTime(verdict.seen);
  drawMachine();
  drawModel();
}

/** What changes is read aloud, but not every number; the title says it where the page is in the background. */
function speak() {
  const { title, why, kind } = judge(), isLogin = state.link === "login";
  const n = (state.alarms ?? []).filter(isUnheard).length;
  const heading = `${n ? `(${n}) ` : ""}${isLogin ? "Sign in" : title} · ${state.model?.name ?? "edge-mer"}`;
  if (document.title !== heading) document.title = heading;
  const text = isLogin ? "" : kind === "ok" ? title : `${title}. ${why}`;
  if (text === at("said").textContent || nowMs() - saidMs < CALM_MS) return;
  saidMs = nowMs();
  say(at("said"), text);
}

function tick() {
  if (state.link === "open" && nowMs() - state.heardMs > QUIET_MS) probe();
  forgetWhoLeft();
  speak();
  later();
}

document.addEventListener("visibilitychange", later);
at("login-form").addEventListener("submit", signIn);
at("logout").addEventListener("click", signOut);
at("take").addEventListener("click", takeMinute);
at("minute").addEventListener("toggle", () => { if (at("minute").open) takeMinute(); });
setInterval(tick, TICK_MS);
connect();
later();
