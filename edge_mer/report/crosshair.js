"use strict";
// A line under the pointer in every chart over time, and the numbers there. The page is whole without it.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const plots = [...document.querySelectorAll(".plot[data-chart]")];
  const make = (css, parent) => {
    const made = document.createElement("div");
    made.className = css;
    made.hidden = true;
    parent.append(made);
    return made;
  };
  const hairs = plots.map((plot) => make("hair", plot));
  const tip = make("tip", document.body);

  const nearest = (x) => {
    let low = 0, high = data.x.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (data.x[middle] < x) low = middle; else high = middle;
    }
    return x - data.x[low] < data.x[high] - x ? low : high;
  };
  const moment = (t) => {
    const tenths = Math.round(Math.abs(t) * 10), s = Math.floor(tenths / 10);
    const two = (n) => String(n).padStart(2, "0");
    const h = Math.floor(s / 3600), m = Math.floor(s / 60) % 60;
    return (t < 0 && tenths ? "−" : "") + (h ? h + ":" + two(m) : m) + ":" + two(s % 60) + "." + (tenths % 10);
  };
  const row = (name, value) => {
    const made = document.createElement("div"), left = document.createElement("span"), right = document.createElement("b");
    left.textContent = name;
    right.textContent = value;
    made.append(left, right);
    return made;
  };
  const place = (event) => {
    const { clientX, clientY } = event, edge = 8;
    const width = tip.offsetWidth, height = tip.offsetHeight, view = document.documentElement;
    let left = clientX + 16;
    if (left + width > view.clientWidth - edge) left = clientX - 16 - width;
    left = Math.max(edge, Math.min(left, view.clientWidth - width - edge));
    let top = clientY + 16;
    if (top + height > view.clientHeight - edge) top = clientY - 16 - height;
    tip.style.left = left + window.scrollX + "px";
    tip.style.top = Math.max(edge, top) + window.scrollY + "px";
  };
  const hide = () => [tip, ...hairs].forEach((one) => { one.hidden = true; });
  const show = (event) => {
    const plot = event.currentTarget, box = plot.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width;
    if (x < 0 || x > 1) return hide();
    const i = nearest(x);
    hairs.forEach((hair) => { hair.hidden = false; hair.style.left = 100 * data.x[i] + "%"; });
    const known = data.charts[plot.dataset.chart].filter(([, values]) => values[i] !== null);
    tip.replaceChildren(
      row(moment(data.t[i]), ""),
      ...known.map(([name, values, unit]) => row(name, String(values[i]).replace("-", "−") + unit)),
      row(data.notes[data.note[i]], ""),
    );
    tip.hidden = false;
    place(event);
  };
  plots.forEach((plot) => {
    plot.addEventListener("pointermove", show);
    plot.addEventListener("pointerdown", show);
    plot.addEventListener("pointerleave", hide);
  });
})();
