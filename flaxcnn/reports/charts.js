// Charts, drawn from the data beside them at the width they have: `flaxcnn.reports.charts`.
const drawn = (tag, attributes = {}, ...children) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const made = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const pen = document.createElement("canvas").getContext("2d");
const widest = (texts, like) => { // in pixels, in the font of an element
  const { fontFamily } = getComputedStyle(like);
  pen.font = `600 12px ${fontFamily}`;
  return Math.max(...texts.map((text) => pen.measureText(text).width));
};
const finite = (values) => values.filter((value) => value !== null && value !== undefined);

// About `count` round numbers from `low` to `high`.
const ticks = (low, high, count, whole) => {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  let step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.99);
  if (whole) step = Math.max(1, step);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(k * step);
  return [found, step];
};

class Chart {
  constructor(figure) {
    this.figure = figure;
    this.data = JSON.parse(figure.dataset.chart);
    this.plot = figure.querySelector(".plot");
    this.alt = this.plot.querySelector("svg").getAttribute("aria-labelledby");
    this.hidden = new Set();
    this.log = this.late = false;
    this.axis = this.data.x;
    for (const line of this.data.lines) line.also = { ...line.also, [this.axis]: line.x };
    this.plot.replaceChildren();
    this.bar();
    this.tip = made("div", { class: "tip", "aria-live": "polite" });
    this.plot.append(this.tip);
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.draw();
  }

  // What the horizontal axis has: marks and points move along with the first line that has them.
  turn(axis) {
    const place = (x) => {
      const line = this.data.lines.find((one) => one.x.includes(x));
      return line ? line.also[axis][line.x.indexOf(x)] : x;
    };
    for (const one of [this.data.mark, ...(this.data.points || [])]) if (one) one[0] = place(one[0]);
    for (const line of this.data.lines) line.x = line.also[axis];
    this.axis = axis;
    this.now = undefined;
    this.draw();
  }

  // Which lines, which axis, and which scale.
  bar() {
    const bar = made("div", { class: "bar" });
    const button = (name, pressed, press, ...children) => {
      const made_ = made("button", { type: "button", "aria-pressed": pressed, class: name }, ...children);
      made_.addEventListener("click", () => {
        const now = made_.getAttribute("aria-pressed") !== "true";
        made_.setAttribute("aria-pressed", now);
        press(now);
        this.draw();
      });
      bar.append(made_);
    };
    const lines = this.data.lines;
    for (const line of lines) {
      const sample = drawn("svg", { width: 18, height: 10, "aria-hidden": "true" },
        drawn("line", { x1: 0, x2: 18, y1: 5, y2: 5, "stroke-width": 2.5, stroke: `var(--${line.colour})`,
          "stroke-dasharray": line.dash || "none" }));
      button("line", true, (now) => this.hidden[now ? "delete" : "add"](line), sample, line.name);
    }
    bar.append(made("span", { class: "gap" }));
    const longest = Math.max(...lines.map((line) => line.x.length));
    const axes = Object.keys(lines[0].also).filter((axis) => lines.every((line) => line.also[axis]));
    if (axes.length > 1 && longest > 1) {
      const main = this.data.x, order = [main, ...axes.filter((axis) => axis !== main)];
      const choice = made("select", { "aria-label": "horizontal axis" },
        ...order.map((axis) => made("option", { value: axis }, `by ${axis}`)));
      choice.addEventListener("change", () => this.turn(choice.value));
      bar.append(choice);
    }
    if (longest > 3) button("scale", false, (now) => (this.late = now), "last half");
    if (this.data.log && longest > 1) button("scale", false, (now) => (this.log = now), "log scale");
    this.plot.before(bar);
  }

  shown() {
    return this.data.lines.filter((line) => !this.hidden.has(line));
  }

  text(value, digits) {
    if (this.data.percent) return `${(100 * value).toFixed(digits ?? 2)} %`;
    if (digits !== undefined) return value.toFixed(digits);
    return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : value.toPrecision(4);
  }

  // From a value to what is linear on the screen: shares by what they lack to 1.
  warp(value) {
    if (!this.log) return value;
    return this.data.percent ? -Math.log10(Math.max(1 - value, this.least)) : Math.log10(Math.max(value, this.least));
  }

  range() {
    const lines = this.shown();
    const xs = finite(this.data.lines.flatMap((line) => line.x));
    let [left, right] = [Math.min(...xs), Math.max(...xs)];
    this.whole = xs.every(Number.isInteger);
    if (this.late) left = this.whole ? Math.ceil((left + right) / 2) : (left + right) / 2;
    const inside = (line, values) => finite((values || []).filter((_, i) => line.x[i] >= left));
    let ys = lines.flatMap((line) => [line.y, line.low, line.high, ...Object.values(line.each || {})]
      .flatMap((values) => inside(line, values)));
    if (!this.late) for (const [y] of this.data.levels || []) ys.push(y);
    for (const [x, y] of this.data.points || []) if (x >= left) ys.push(y);
    if (!ys.length) ys = [0, 1];
    const positive = ys.map((y) => (this.data.percent ? 1 - y : y)).filter((y) => y > 0);
    this.least = positive.length ? Math.min(...positive) / 2 : 1e-3;
    let [low, high] = [Math.min(...ys.map((y) => this.warp(y))), Math.max(...ys.map((y) => this.warp(y)))];
    const whole = !this.data.percent && !this.log && low >= 0 && low < 0.3 * high;
    const pad = (high - low || Math.abs(high) || 1) * 0.06;
    [low, high] = [whole ? 0 : low - pad, high + pad];
    if (this.data.percent && !this.log) [low, high] = [Math.max(low, 0), Math.min(high, 1.002)];
    if (left === right) [left, right] = [left - 0.5, right + 0.5];
    return [left, right, low, high];
  }

  levels(low, high, count) {
    if (!this.log) {
      const scale = this.data.percent ? 100 : 1;
      const [found, step] = ticks(low * scale, high * scale, count);
      const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      return found.map((y) => [y / scale, this.text(y / scale, digits)]);
    }
    const found = [];
    for (let power = -8; power <= 8; power++)
      for (const factor of high - low > 1.5 ? [1] : [1, 2, 5]) {
        const y = this.data.percent ? 1 - factor * 10 ** power : factor * 10 ** power;
        if (this.data.percent && y < 0) continue;
        if (this.warp(y) >= low && this.warp(y) <= high) found.push(y);
      }
    const trim = (y) => String(+(this.data.percent ? 100 * y : y).toPrecision(6)) + (this.data.percent ? " %" : "");
    return found.map((y) => [y, trim(y)]).sort((a, b) => a[0] - b[0]);
  }

  draw(paper) {
    const width = Math.max(paper || this.plot.clientWidth, 240);
    if (!this.plot.clientWidth && this.svg) return;
    const wide = width >= 420;
    const height = Number(getComputedStyle(this.figure).getPropertyValue("--height")) || 280;
    const [left, right, low, high] = this.range();
    const levels = this.levels(low, high, Math.max(3, height / 60));
    const margin = { top: 20, bottom: 38, left: 14 + 6.8 * Math.max(...levels.map(([, text]) => text.length), 2), right: 14 };
    const ends = wide ? this.ends(right) : [];
    if (ends.length) margin.right = 14 + widest(ends.map((end) => end.text), this.figure);
    const x = (value) => margin.left + ((value - left) / (right - left)) * (width - margin.left - margin.right);
    const y = (value) => height - margin.bottom - ((this.warp(value) - low) / (high - low)) * (height - margin.top - margin.bottom);
    Object.assign(this, { x, y, left, right, margin, width, height });
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-labelledby": this.alt, tabindex: 0 });
    this.axes(svg, levels, wide);
    const clip = `${this.alt}-clip`;
    svg.append(drawn("clipPath", { id: clip }, drawn("rect", { x: margin.left - 4, y: margin.top - 6,
      width: width - margin.left - margin.right + 8, height: height - margin.top - margin.bottom + 12 })));
    const body = drawn("g", { "clip-path": "url(" + `#${clip})` });
    svg.append(body);
    for (const line of this.shown()) this.line(body, line);
    this.notes(svg);
    this.label(svg, ends);
    this.cross = drawn("g", { class: "cross" });
    svg.append(this.cross);
    if (this.svg) this.svg.replaceWith(svg); else this.plot.prepend(svg);
    this.svg = svg;
    svg.addEventListener("pointermove", (event) => this.point(event));
    svg.addEventListener("pointerdown", (event) => this.point(event));
    svg.addEventListener("pointerleave", () => this.away());
    svg.addEventListener("blur", () => this.away());
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  axes(svg, levels, wide) {
    const { x, y, margin, width, height } = this;
    for (const [value, text] of levels) {
      svg.append(drawn("line", { class: "grid", x1: margin.left, x2: width - margin.right, y1: y(value), y2: y(value) }));
      svg.append(drawn("text", { x: margin.left - 8, y: y(value) + 4, "text-anchor": "end" }, text));
    }
    const [found] = ticks(this.left, this.right, Math.max(2, (width - margin.left - margin.right) / (wide ? 80 : 60)), this.whole);
    for (const value of found) {
      svg.append(drawn("line", { class: "tick", x1: x(value), x2: x(value), y1: height - margin.bottom, y2: height - margin.bottom + 4 }));
      svg.append(drawn("text", { x: x(value), y: height - margin.bottom + 17, "text-anchor": "middle" }, String(+value.toPrecision(6))));
    }
    svg.append(drawn("line", { class: "axis", x1: margin.left, x2: width - margin.right, y1: height - margin.bottom, y2: height - margin.bottom }));
    svg.append(drawn("text", { class: "name", x: (margin.left + width - margin.right) / 2, y: height - 4, "text-anchor": "middle" }, this.axis || ""));
    if (this.data.y) svg.append(drawn("text", { class: "name", x: 0, y: 10 }, this.data.y));
  }

  path(xs, ys) {
    let text = "", open = false;
    xs.forEach((value, i) => {
      if (ys[i] === null || ys[i] === undefined) return (open = false);
      text += `${open ? "L" : "M"}${this.x(value).toFixed(1)},${this.y(ys[i]).toFixed(1)}`;
      open = true;
    });
    return text;
  }

  line(body, line) {
    const stroke = `var(--${line.colour})`;
    if (line.low) {
      const back = line.x.map((_, i) => line.x.length - 1 - i);
      const there = this.path(line.x, line.high), again = this.path(back.map((i) => line.x[i]), back.map((i) => line.low[i]));
      body.append(drawn("path", { class: "band", d: `${there}${again.replace("M", "L")}Z`, fill: stroke }));
    }
    for (const values of Object.values(line.each || {}))
      body.append(drawn("path", { class: "each", d: this.path(line.x, values), stroke }));
    body.append(drawn("path", { class: "line", d: this.path(line.x, line.y), stroke, "stroke-dasharray": line.dash || "none" }));
    line.x.forEach((value, i) => { // no neighbour: a line would not be seen
      const alone = finite([line.y[i - 1], line.y[i + 1]]).length === 0 && finite([line.y[i]]).length;
      if (alone) body.append(drawn("circle", { cx: this.x(value), cy: this.y(line.y[i]), r: 3.5, fill: stroke }));
    });
  }

  notes(svg) {
    const { margin, width, height } = this;
    for (const [value, text] of this.data.levels || []) {
      const at = this.y(value);
      if (at < margin.top - 6 || at > height - margin.bottom) continue;
      svg.append(drawn("line", { class: "level", x1: margin.left, x2: width - margin.right, y1: at, y2: at }));
      svg.append(drawn("text", { class: "note", x: margin.left + 4, y: at - 5 }, text));
    }
    if (this.data.mark && this.data.mark[0] >= this.left) {
      const [value, text] = this.data.mark;
      const at = this.x(value), right = at > (margin.left + width - margin.right) / 2;
      svg.append(drawn("line", { class: "mark", x1: at, x2: at, y1: margin.top - 8, y2: height - margin.bottom }));
      svg.append(drawn("text", { class: "note", x: at + (right ? -5 : 5), y: margin.top - 3, "text-anchor": right ? "end" : "start" }, text));
    }
    for (const [px, py, , colour] of this.data.points || [])
      if (px >= this.left) svg.append(drawn("path", { class: "dot", fill: `var(--${colour})`,
        d: `M${this.x(px)},${this.y(py) - 6}l6,6l-6,6l-6,-6Z` }));
  }

  // What stands at the end of each line, where there is room.
  ends(right) {
    const found = this.shown().map((line) => {
      const last = line.y.findLastIndex((value) => value !== null);
      return last < 0 ? null : { text: line.name, value: line.y[last], x: line.x[last], colour: line.colour };
    }).filter(Boolean);
    for (const [x, y, text, colour] of this.data.points || []) found.push({ text, value: y, x: right, colour });
    return found.length <= 6 && found.every((end) => end.text.length <= 22) ? found : [];
  }

  label(svg, ends) {
    const { margin, width, height } = this;
    const places = ends.map((end) => ({ ...end, at: this.y(end.value) })).sort((a, b) => a.at - b.at);
    for (let i = 1; i < places.length; i++) places[i].at = Math.max(places[i].at, places[i - 1].at + 15);
    let limit = height - margin.bottom;
    for (const place of [...places].reverse()) { place.at = Math.min(place.at, limit); limit = place.at - 15; }
    for (const place of places)
      svg.append(drawn("text", { class: "end", x: width - margin.right + 10, y: place.at + 4, fill: `var(--${place.colour})` }, place.text));
  }

  // -- values under the pointer --

  point(event) {
    const box = this.svg.getBoundingClientRect();
    const scale = this.width / box.width;
    const at = (event.clientX - box.left) * scale;
    const xs = [...new Set(this.data.lines.flatMap((line) => line.x))].filter((x) => x >= this.left);
    const nearest = xs.reduce((a, b) => (Math.abs(this.x(b) - at) < Math.abs(this.x(a) - at) ? b : a));
    this.show(nearest, (event.clientY - box.top) * scale);
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") this.away();
    if (!step) return;
    event.preventDefault();
    const xs = [...new Set(this.data.lines.flatMap((line) => line.x))].filter((x) => x >= this.left).sort((a, b) => a - b);
    const now = xs.indexOf(this.now);
    this.show(xs[Math.min(xs.length - 1, Math.max(0, now < 0 ? xs.length - 1 : now + step))], null);
  }

  show(value, height) {
    this.now = value;
    const at = this.x(value), { margin } = this;
    this.cross.replaceChildren(drawn("line", { x1: at, x2: at, y1: margin.top, y2: this.height - margin.bottom }));
    const rows = [];
    let close = null;
    for (const line of this.shown()) {
      // Epochs are the same for all; at a number of seconds, each line has its latest epoch.
      const i = this.axis === this.data.x ? line.x.indexOf(value) : line.x.findLastIndex((x) => x <= value);
      for (const [name, values] of Object.entries(line.each || {})) {
        if (height === null || finite([values[i]]).length === 0) continue;
        const off = Math.abs(this.y(values[i]) - height);
        if (off < 14 && (!close || off < close.off)) close = { off, name, value: values[i], line, values };
      }
      if (i < 0 || line.y[i] === null) continue;
      this.cross.append(drawn("circle", { cx: this.x(line.x[i]), cy: this.y(line.y[i]), r: 4, fill: `var(--${line.colour})` }));
      const spread = line.low ? ` (${this.text(line.low[i])} to ${this.text(line.high[i])})` : "";
      rows.push(made("div", {}, made("i", { style: `background:var(--${line.colour})` }), `${line.name} `,
        made("b", {}, this.text(line.y[i])), spread));
    }
    if (close) {
      this.cross.append(drawn("path", { class: "close", d: this.path(close.line.x, close.values), stroke: `var(--${close.line.colour})` }));
      rows.push(made("div", {}, made("i"), `${close.name} `, made("b", {}, this.text(close.value))));
    }
    for (const [x, y, name, colour] of this.data.points || []) if (x === value)
      rows.push(made("div", {}, made("i", { style: `background:var(--${colour})` }), `${name} `, made("b", {}, this.text(y))));
    this.tip.replaceChildren(made("div", { class: "head" }, `${this.axis} ${+value.toPrecision(4)}`), ...rows);
    this.tip.classList.add("shown");
    const share = at / this.width;
    this.tip.style.left = share < 0.5 ? `calc(${100 * share}% + 12px)` : "auto";
    this.tip.style.right = share < 0.5 ? "auto" : `calc(${100 - 100 * share}% + 12px)`;
  }

  away() {
    this.cross.replaceChildren();
    this.tip.classList.remove("shown");
  }
}

const charts = [...document.querySelectorAll("figure[data-chart]")].map((figure) => new Chart(figure));
const half = 430; // pixels: about what half a sheet of paper has
addEventListener("beforeprint", () => charts.forEach((chart) => chart.draw(Math.min(half, chart.width))));
addEventListener("afterprint", () => charts.forEach((chart) => chart.draw()));
