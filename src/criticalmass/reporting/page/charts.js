"use strict";
// Draws the figures of the page from what plot.py wrote. It places numbers; it computes none.
const charts = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const DASHES = ["", "8 3", "3 2", "7 2 2 2", "1.5 3", "5 4"];
  const MARKS = [
    (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    (r) => `M0 ${-1.2 * r}L${1.15 * r} ${r}H${-1.15 * r}Z`,
    (r) => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0Z`,
    (r) => `M0 ${1.2 * r}L${1.15 * r} ${-r}H${-1.15 * r}Z`,
    (r) => `M${-r} ${-r / 3}h${r * 0.67}v${-r * 0.67}h${r * 0.67}v${r * 0.67}h${r * 0.67}v${r * 0.67}h${-r * 0.67}v${r * 0.67}h${-r * 0.67}v${-r * 0.67}h${-r * 0.67}Z`,
  ];
  const STAR = "M0 -6L1.6 -1.9L6 -1.9L2.5 0.9L3.7 5.2L0 2.7L-3.7 5.2L-2.5 0.9L-6 -1.9L-1.6 -1.9Z";
  const NARROW = 480;
  const DRAWN = new Set(["line", "steps", "bare"]);

  function svg(name, attributes, parent, text) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  function html(name, attributes, parent, text) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    if (parent) parent.append(made);
    return made;
  }

  const percent = (share) => `${Number((share * 100).toPrecision(3))}\u00a0%`;
  const count = (value) => Math.round(value).toLocaleString("en-US");

  function said(axis, value) {
    if (axis.neurons) return `${count(value * axis.neurons)} neurons (${percent(value)})`;
    if (axis.form === "percent") return percent(value);
    return axis.form === "count" ? `${count(value)} neurons` : value.toFixed(3);
  }

  // Where a value of an axis lies between two pixels.
  function scale(axis, from, to) {
    const put = axis.log ? Math.log : (value) => value;
    const low = put(axis.low), high = put(axis.high);
    return (value) => from + ((put(value) - low) / (high - low)) * (to - from);
  }

  class Chart {
    constructor(figure, spec) {
      Object.assign(this, { figure, spec, hidden: new Set(), marks: [], chosen: null, at: null });
      const box = figure.querySelector(".chart");
      const words = `${spec.title}: ${spec.summary}`;
      const how = "Arrow keys read the values.";
      this.plot = html("div", { class: "canvas", tabindex: "0", role: "application",
        "aria-roledescription": "figure", "aria-label": `${words} ${how}` }, box);
      this.readout = html("p", { class: "readout", role: "status" }, box);
      if (!spec.cells) this.legend(box);
      this.rest();
      this.plot.addEventListener("keydown", (event) => this.key(event));
      this.plot.addEventListener("pointermove", (event) => this.point(event));
      this.plot.addEventListener("pointerdown", (event) => this.point(event));
      this.plot.addEventListener("pointerleave", () => this.leave());
      this.plot.addEventListener("blur", () => this.leave());
    }

    rest() {
      this.readout.textContent = matchMedia("(hover: hover)").matches
        ? "Point at it, or use the arrow keys, to read values." : "Touch it to read values.";
      this.readout.classList.add("idle");
    }

    // Buttons that show and hide lines; so many that nobody would read them get none.
    legend(box) {
      const { series } = this.spec;
      const told = series.map((one, at) => [one, at]).filter(([one]) => one.style !== null);
      if (told.length + series.filter((one) => one.style === null).length < 2 || !told.length) return;
      const list = html("div", { class: "legend", role: "group", "aria-label": `Lines of ${this.spec.title}` }, box);
      for (const [one, at] of told) {
        const button = html("button", { type: "button", "aria-pressed": "true" }, list);
        const sample = svg("svg", { viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" }, button);
        if (DRAWN.has(one.shape)) this.stroke(sample, one, "M0 6H30");
        if (one.shape !== "bare" && one.shape !== "steps") this.mark(sample, one, 15, 6);
        html("span", {}, button, one.name);
        button.addEventListener("click", () => {
          const shown = this.hidden.delete(at);
          if (!shown) this.hidden.add(at);
          button.setAttribute("aria-pressed", String(shown));
          this.draw();
        });
      }
    }

    look(one) {
      if (one.curve !== null && one.curve === this.chosen && one.style === null) return "s0 chosen";
      return one.style === null ? "quiet" : `s${one.style % 6}`;
    }

    stroke(parent, one, path) {
      const dash = one.style === null ? "" : DASHES[one.style % 6];
      return svg("path", { class: `line ${this.look(one)}`, d: path, "stroke-dasharray": dash }, parent);
    }

    mark(parent, one, x, y) {
      const star = one.shape === "stars";
      const shape = star ? STAR : MARKS[(one.style ?? 0) % 6](one.hollow ? 3 : 3.5);
      const fill = star ? "star" : `${one.hollow ? "ring" : "dot"} ${this.look(one)}`;
      return svg("path", { class: fill, d: shape, transform: `translate(${x.toFixed(1)} ${y.toFixed(1)})` }, parent);
    }

    draw() {
      const width = Math.max(240, Math.round(this.plot.clientWidth || 480));
      const cells = this.spec.cells;
      const small = width < NARROW;
      const wide = cells ? this.margin(cells.rows) : 46;
      const height = cells ? this.tall(cells, width) : Math.round(Math.min(380, Math.max(250, width * 0.62)));
      this.frame = { left: wide, right: width - 14, top: 16, bottom: height - 44, width, height, small };
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
      this.spots = [];
      if (cells) this.drawCells(root, cells); else this.drawLines(root);
      this.cursor = svg("g", { class: "cursor" }, root);
      this.plot.replaceChildren(root);
      if (this.at) this.show(this.at.series, this.at.index);
    }

    margin(names) {
      return Math.min(150, 14 + 6.4 * Math.max(...names.map((name) => Math.min(name.length, 21))));
    }

    tall(cells, width) {
      const side = (width - this.margin(cells.rows) - 14) / cells.columns.length;
      return 60 + cells.rows.length * Math.max(15, Math.min(30, side * 0.75));
    }

    drawCells(root, cells) {
      const { left, right, top, bottom } = this.frame;
      const w = (right - left) / cells.columns.length, h = (bottom - top) / cells.rows.length;
      cells.rows.forEach((name, i) => {
        const short = name.length > 21 ? `${name.slice(0, 20)}…` : name;
        svg("text", { class: "tick", x: left - 6, y: top + (i + 0.5) * h + 4, "text-anchor": "end" }, root, short);
        cells.columns.forEach((column, j) => {
          const value = cells.values[i][j], x = left + j * w, y = top + i * h;
          const spot = { x: x + w / 2, y: y + h / 2, series: i, index: j, box: [x, y, w, h] };
          spot.text = value === null ? `${name}, ${column}: no value` : `${name}, ${column}: ${value.toFixed(3)}`;
          this.spots.push(spot);
          if (value === null) return;
          const shade = Math.max(0, Math.min(1, value));
          const cell = svg("rect", { class: "cell", x: x + 0.5, y: y + 0.5, width: Math.max(1, w - 1), height: Math.max(1, h - 1) }, root);
          cell.style.setProperty("--shade", shade.toFixed(3));
          if (w > 33 && h > 14) {
            svg("text", { class: "written", x: x + w / 2, y: y + h / 2 + 4, "text-anchor": "middle" }, root, value.toFixed(2));
          }
        });
      });
      const every = Math.ceil((7 * Math.max(...cells.columns.map((name) => name.length)) + 4) / w);
      cells.columns.forEach((name, j) => {
        if (j % every === 0) svg("text", { class: "tick", x: left + (j + 0.5) * w, y: bottom + 18, "text-anchor": "middle" }, root, name);
      });
    }

    drawAxes(root, x, y) {
      const { left, right, top, bottom, small } = this.frame;
      for (const [value, words] of this.spec.y.ticks) {
        svg("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }, root);
        svg("text", { class: "tick", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, root, words);
      }
      let last = -Infinity;
      svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }, root);
      const ticks = [...this.spec.x.ticks].reverse();
      last = Infinity;
      for (const [value, words] of ticks) {
        const place = x(value), room = 6.2 * words.length + 8;
        if (last - place < room || place < left - 1) continue;
        last = place;
        svg("path", { class: "axis", d: `M${place} ${bottom}v4` }, root);
        svg("text", { class: "tick", x: place, y: bottom + 17, "text-anchor": "middle" }, root, words);
      }
      svg("text", { class: "label", x: right, y: bottom + 36, "text-anchor": "end" }, root, this.spec.x.label);
      const fits = Math.floor((right - left) / 6.3);
      const label = this.spec.y.label;
      svg("text", { class: "label", x: small ? 2 : 2, y: 10 }, root, label.length > fits + 6 ? `${label.slice(0, fits + 5)}…` : label);
    }

    drawLines(root) {
      const { left, right, top, bottom } = this.frame;
      const x = scale(this.spec.x, left, right), y = scale(this.spec.y, bottom, top + 8);
      Object.assign(this.frame, { x, y });
      this.drawAxes(root, x, y);
      for (const [axis, place, words, dashed] of this.spec.rules) {
        const path = axis === "y" ? `M${left} ${y(place)}H${right}` : `M${x(place)} ${top}V${bottom}`;
        svg("path", { class: "rule", d: path, "stroke-dasharray": dashed ? "5 4" : "" }, root);
        if (words) svg("text", { class: "tick", x: left + 4, y: y(place) - 5 }, root, words);
      }
      const order = this.spec.series.map((one, at) => [one, at])
        .sort(([a], [b]) => this.depth(a) - this.depth(b));
      for (const [one, at] of order) if (!this.hidden.has(at)) this.drawSeries(root, one, at, x, y);
      for (const mark of this.marks) this.drawMark(root, mark, x, y);
    }

    depth(one) {
      return one.style !== null ? 1 : one.curve !== null && one.curve === this.chosen ? 2 : 0;
    }

    drawSeries(root, one, at, x, y) {
      const known = one.x.map((value, i) => i).filter((i) => one.x[i] !== null && one.y[i] !== null);
      const band = known.filter((i) => one.low.length && one.low[i] !== null && one.high[i] !== null);
      const shown = one.style !== null || this.depth(one) === 2;
      const place = (i, values) => `${x(one.x[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
      if (shown && band.length > 1 && DRAWN.has(one.shape)) {
        const there = band.map((i) => place(i, one.high)), back = band.map((i) => place(i, one.low)).reverse();
        svg("path", { class: `band ${this.look(one)}`, d: `M${there.join("L")}L${back.join("L")}Z` }, root);
      }
      if (one.shape === "points" || one.shape === "stars") for (const i of band) {
        svg("path", { class: `reach ${one.shape === "stars" ? "ink" : this.look(one)}`, d: `M${place(i, one.low)}V${y(one.high[i]).toFixed(1)}` }, root);
      }
      if (one.shape === "line" || one.shape === "bare") this.stroke(root, one, `M${known.map((i) => place(i, one.y)).join("L")}`);
      if (one.shape === "steps") {
        let path = "";
        known.forEach((i, n) => { path += n ? `H${x(one.x[i]).toFixed(1)}V${y(one.y[i]).toFixed(1)}` : `M${place(i, one.y)}`; });
        this.stroke(root, one, path);
      }
      for (const i of known) {
        const spot = { x: x(one.x[i]), y: y(one.y[i]), series: at, index: i };
        spot.text = this.tell(one, i);
        this.spots.push(spot);
        if (one.shape === "points" || one.shape === "stars" || (shown && one.shape === "line")) this.mark(root, one, spot.x, spot.y);
      }
    }

    tell(one, i) {
      const y = this.spec.y;
      const form = (value) => (y.form === "percent" ? percent(value) : value.toFixed(3));
      const known = one.low.length && one.low[i] !== null && one.high[i] !== null;
      const ends = known ? ` [${form(one.low[i])}, ${form(one.high[i])}]` : "";
      return `${one.name}, ${said(this.spec.x, one.x[i])}: ${form(one.y[i])}${ends}`;
    }

    // What the slider sets: a critical mass with its interval, or a line across.
    drawMark(root, mark, x, y) {
      const { left, top, bottom } = this.frame;
      const group = svg("g", { class: "setting" }, root);
      if (mark.kind === "line") {
        svg("path", { d: `M${x(mark.x)} ${top}V${bottom}`, "stroke-dasharray": "2 3" }, group);
        return;
      }
      const level = y(mark.y);
      svg("path", { class: "thin", d: `M${left} ${level}H${x(mark.low)}` }, group);
      svg("path", { class: "thick", d: `M${x(mark.low)} ${level}H${x(mark.high)}` }, group);
      svg("path", { class: "diamond", d: MARKS[3](5), transform: `translate(${x(mark.x)} ${level})` }, group);
    }

    set(chosen, marks) {
      this.chosen = chosen;
      this.marks = marks.filter((mark) => !this.spec.x || (mark.x >= this.spec.x.low && mark.x <= this.spec.x.high));
      this.draw();
    }

    point(event) {
      const box = this.plot.getBoundingClientRect(), { width } = this.frame;
      const px = ((event.clientX - box.left) / box.width) * width;
      const py = ((event.clientY - box.top) / box.width) * width;
      let best = null, least = Infinity;
      for (const spot of this.spots) {
        const far = Math.abs(spot.x - px) * 1.5 + Math.abs(spot.y - py);
        if (far < least) [best, least] = [spot, far];
      }
      if (best) this.show(best.series, best.index);
    }

    key(event) {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (event.key === "Escape") { this.leave(); return; }
      const edge = event.key === "Home" ? "first" : event.key === "End" ? "last" : null;
      if (!steps[event.key] && !edge) return;
      event.preventDefault();
      const lines = [...new Set(this.spots.map((spot) => spot.series))].sort((a, b) => a - b);
      if (!lines.length) return;
      const mine = (line) => this.spots.filter((spot) => spot.series === line).sort((a, b) => a.x - b.x);
      if (!this.at) { this.show(lines[0], mine(lines[0])[0].index); return; }
      let row = mine(this.at.series), place = row.findIndex((spot) => spot.index === this.at.index);
      if (edge) place = edge === "first" ? 0 : row.length - 1;
      else if (steps[event.key][0]) {
        const to = lines.indexOf(this.at.series) + steps[event.key][0];
        const x = row[place].x;
        row = mine(lines[Math.max(0, Math.min(lines.length - 1, to))]);
        place = row.reduce((best, spot, i) => (Math.abs(spot.x - x) < Math.abs(row[best].x - x) ? i : best), 0);
      } else place = Math.max(0, Math.min(row.length - 1, place + steps[event.key][1]));
      this.show(row[place].series, row[place].index);
    }

    show(series, index) {
      const spot = this.spots.find((one) => one.series === series && one.index === index);
      if (!spot) { this.leave(); return; }
      this.at = { series, index };
      this.readout.textContent = spot.text;
      this.readout.classList.remove("idle");
      this.cursor.replaceChildren();
      if (spot.box) {
        const [x, y, width, height] = spot.box;
        svg("rect", { x, y, width, height }, this.cursor);
        return;
      }
      svg("path", { d: `M${spot.x} ${this.frame.top}V${this.frame.bottom}` }, this.cursor);
      svg("circle", { cx: spot.x, cy: spot.y, r: 6.5 }, this.cursor);
    }

    leave() {
      this.at = null;
      if (this.cursor) this.cursor.replaceChildren();
      this.rest();
    }
  }
  return { Chart, svg, html };
})();
