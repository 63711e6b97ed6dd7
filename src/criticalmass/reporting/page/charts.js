"use strict";
// Draws the figures of the page from Plot.spec() of plots.py. Computes positions; values, words and
// colours are those of the description.
const charts = (() => {
  const SVG_NAMESPACE = "http://www.w3.org/2000/svg";
  const LINE_WIDTH = 2; // the unit of dash patterns, as in charts.css
  const star = "M0 -6L1.6 -1.9L6 -1.9L2.5 0.9L3.7 5.2L0 2.7L-3.7 5.2L-2.5 0.9L-6 -1.9L-1.6 -1.9Z";
  // Paths of the markers for a radius, by their names in matplotlib.
  const MARKERS = {
    o: (r) => `M${-r} 0a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    s: (r) => `M${-r} ${-r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    "^": (r) => `M0 ${-1.2 * r}L${1.15 * r} ${r}H${-1.15 * r}Z`,
    D: (r) => `M0 ${-1.35 * r}L${1.35 * r} 0L0 ${1.35 * r}L${-1.35 * r} 0Z`,
    v: (r) => `M0 ${1.2 * r}L${1.15 * r} ${-r}H${-1.15 * r}Z`,
    P: (r) => `M${-r} ${-r / 3}h${r * 0.67}v${-r * 0.67}h${r * 0.67}v${r * 0.67}h${r * 0.67}v${r * 0.67}h${-r * 0.67}v${r * 0.67}h${-r * 0.67}v${-r * 0.67}h${-r * 0.67}Z`,
    "*": () => star,
  };
  const LINE_SHAPES = new Set(["line", "steps", "bare", "band"]);
  const POINT_SHAPES = new Set(["points", "stars"]);
  const MAX_NAME_LENGTH = 21;

  function addElement(element, attributes, parent, text) {
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function svg(name, attributes, parent, text) {
    return addElement(document.createElementNS(SVG_NAMESPACE, name), attributes, parent, text);
  }

  function html(name, attributes, parent, text) {
    return addElement(document.createElement(name), attributes, parent, text);
  }

  const formatPercent = (share) => `${Number((share * 100).toPrecision(3))}\u00a0%`;
  const formatCount = (value) => Math.round(value).toLocaleString("en-US");
  const shorten = (text, length) => (text.length > length ? `${text.slice(0, length - 1)}…` : text);

  function formatOnAxis(axis, value) {
    if (axis.neurons) return `${formatCount(value * axis.neurons)} neurons (${formatPercent(value)})`;
    if (axis.form === "percent") return formatPercent(value);
    return axis.form === "count" ? `${formatCount(value)} neurons` : value.toFixed(3);
  }

  // Returns the function from values of an axis to pixels between start and end.
  function makeScale(axis, start, end) {
    const transform = axis.log ? Math.log : (value) => value;
    const low = transform(axis.low), high = transform(axis.high);
    return (value) => start + ((transform(value) - low) / (high - low)) * (end - start);
  }

  class Chart {
    constructor(figure, spec) {
      this.figure = figure;
      this.spec = spec;
      this.hiddenSeries = new Set();
      this.sliderMarks = [];
      this.chosenCurve = null;
      this.selected = null; // { series, index } of the point that is read
      const box = figure.querySelector(".chart");
      const label = `${spec.title}: ${spec.summary} Arrow keys read the values.`;
      this.canvas = html("div", { class: "canvas", tabindex: "0", role: "application",
        "aria-roledescription": "figure", "aria-label": label }, box);
      this.readout = html("p", { class: "readout", role: "status" }, box);
      if (!spec.cells) this.addLegend(box);
      this.showHint();
      this.canvas.addEventListener("keydown", (event) => this.onKey(event));
      this.canvas.addEventListener("pointermove", (event) => this.onPointer(event));
      this.canvas.addEventListener("pointerdown", (event) => this.onPointer(event));
      this.canvas.addEventListener("pointerleave", () => this.deselect());
      this.canvas.addEventListener("blur", () => this.deselect());
    }

    showHint() {
      this.readout.textContent = matchMedia("(hover: hover)").matches
        ? "Point at the figure, or use the arrow keys, to read values." : "Touch the figure to read values.";
      this.readout.classList.add("hint");
    }

    // Adds buttons that show and hide the series of each entry of the legend.
    addLegend(box) {
      const { series, legend } = this.spec;
      if (!legend.length) return;
      const list = html("div", { class: "legend", role: "group", "aria-label": `Lines of ${this.spec.title}` }, box);
      for (const [text, numbers] of legend) {
        const line = series[numbers[0]];
        const button = html("button", { type: "button", "aria-pressed": "true" }, list);
        const sample = svg("svg", { viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" }, button);
        if (line.shape === "band") this.paint("band", line, "M0 1H30V11H0Z", sample);
        else if (LINE_SHAPES.has(line.shape)) this.drawStroke(sample, line, "M0 6H30");
        if (line.marker && !(line.secondary && line.shape === "line")) this.drawMarker(sample, line, 15, 6);
        html("span", {}, button, text);
        button.addEventListener("click", () => {
          const isShown = this.hiddenSeries.has(numbers[0]);
          for (const number of numbers) this.hiddenSeries[isShown ? "delete" : "add"](number);
          button.setAttribute("aria-pressed", String(isShown));
          this.draw();
        });
      }
    }

    isChosen(line) {
      return line.curve !== null && line.curve === this.chosenCurve;
    }

    // Draws a path in the colour of a series.
    paint(style, line, path, parent, attributes = {}) {
      const element = svg("path", { class: style, d: path, ...attributes }, parent);
      element.style.setProperty("--tone", line.secondary && this.isChosen(line) ? "var(--ink)" : line.colour);
      return element;
    }

    drawStroke(parent, line, path) {
      const weight = line.secondary ? (this.isChosen(line) ? " chosen" : " thin") : "";
      const dashes = line.dashes.map((length) => length * LINE_WIDTH).join(" ");
      this.paint(`line${weight}`, line, path, parent, { "stroke-dasharray": dashes });
    }

    drawMarker(parent, line, x, y, name = line.marker, radius = 3.5) {
      const style = line.hollow || line.shape === "stars" || name !== line.marker ? "ring" : "dot";
      const transform = `translate(${x.toFixed(1)} ${y.toFixed(1)})`;
      this.paint(style, line, MARKERS[name](radius), parent, { transform });
    }

    draw() {
      const width = Math.max(240, Math.round(this.canvas.clientWidth || 480));
      const cells = this.spec.cells;
      const rows = cells ? cells.rows : this.spec.y.ticks.map(([, text]) => text);
      const left = cells ? this.rowNamesWidth(rows) : Math.max(46, this.rowNamesWidth(rows));
      const height = cells ? this.cellsHeight(cells, width)
        : Math.round(Math.max(Math.min(380, Math.max(250, width * 0.62)), 76 + 17 * rows.length));
      this.frame = { left, right: width - 14, top: cells ? 30 : 16, bottom: height - 44, width, height };
      const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", focusable: "false" });
      this.points = []; // all points that can be read
      if (cells) this.drawCells(root, cells); else this.drawLines(root);
      this.cursor = svg("g", { class: "cursor" }, root);
      this.canvas.replaceChildren(root);
      if (this.selected) this.select(this.selected.series, this.selected.index);
    }

    rowNamesWidth(names) {
      const longest = Math.max(...names.map((name) => Math.min(name.length, MAX_NAME_LENGTH)));
      return Math.min(150, 14 + 6.4 * longest);
    }

    cellsHeight(cells, width) {
      const cellWidth = (width - this.rowNamesWidth(cells.rows) - 14) / cells.columns.length;
      return 74 + cells.rows.length * Math.max(15, Math.min(30, cellWidth * 0.75));
    }

    drawCells(root, cells) {
      const { left, right, top, bottom } = this.frame;
      const cellWidth = (right - left) / cells.columns.length, cellHeight = (bottom - top) / cells.rows.length;
      cells.rows.forEach((name, i) => {
        const textY = top + (i + 0.5) * cellHeight + 4;
        svg("text", { class: "tick", x: left - 6, y: textY, "text-anchor": "end" }, root, shorten(name, MAX_NAME_LENGTH));
        cells.columns.forEach((column, j) => {
          const value = cells.values[i][j], x = left + j * cellWidth, y = top + i * cellHeight;
          const point = { x: x + cellWidth / 2, y: y + cellHeight / 2, series: i, index: j, box: [x, y, cellWidth, cellHeight] };
          point.text = `${name}, ${column}: ${value === null ? "no value" : value.toFixed(3)}`;
          this.points.push(point);
          if (value === null) return;
          this.drawCell(root, value, x + 0.5, y + 0.5, Math.max(1, cellWidth - 1), Math.max(1, cellHeight - 1));
          if (cells.texts[i][j] && cellWidth > 33 && cellHeight > 14) {
            svg("text", { class: "cell-text", x: point.x, y: point.y + 4, "text-anchor": "middle" }, root, cells.texts[i][j]);
          }
        });
      });
      const columns = cells.columns.map((name, j) => [left + (j + 0.5) * cellWidth, name]);
      for (const [x, name] of this.fitting(columns)) svg("text", { class: "tick", x, y: bottom + 17, "text-anchor": "middle" }, root, name);
      this.drawTitles(root, cells.column_label, cells.label, right - left - 28 * cells.ticks.length);
      cells.ticks.forEach(([value, text], i) => {
        const x = right - 28 * (cells.ticks.length - i);
        this.drawCell(root, value, x, 0, 28, 17);
        svg("text", { class: "cell-text", x: x + 14, y: 13, "text-anchor": "middle" }, root, text);
      });
    }

    drawCell(root, value, x, y, width, height) {
      const cell = svg("rect", { class: "cell", x, y, width, height }, root);
      cell.style.setProperty("--shade", Math.max(0, Math.min(1, value)).toFixed(3));
    }

    // Describes a point of a row with a name: the name, and the position with its interval.
    describeRow(line, i) {
      const away = ([place]) => Math.abs(place - line.y[i]);
      const [, name] = this.spec.y.ticks.reduce((best, tick) => (away(tick) < away(best) ? tick : best));
      const ends = [line.x_low[i], line.x_high[i]].filter((value) => typeof value === "number");
      const interval = ends.length === 2 ? ` [${ends.map((value) => formatOnAxis(this.spec.x, value)).join(", ")}]` : "";
      return `${name}, ${line.name}: ${formatOnAxis(this.spec.x, line.x[i])}${interval}`;
    }

    // Returns the (position, text) pairs whose texts do not overlap, from the right.
    fitting(ticks) {
      const widthOf = (text) => 6.2 * text.length + 8;
      return ticks.reduceRight((shown, [x, text]) => {
        const [nextX, nextText] = shown.at(-1) ?? [Infinity, ""];
        return nextX - x >= (widthOf(text) + widthOf(nextText)) / 2 ? [...shown, [x, text]] : shown;
      }, []);
    }

    drawTitles(root, xLabel, yLabel, width) {
      const { right, bottom } = this.frame;
      svg("text", { class: "label", x: right, y: bottom + 36, "text-anchor": "end" }, root, xLabel);
      svg("text", { class: "label", x: 2, y: 10 }, root, shorten(yLabel, Math.floor(width / 6.3) + 6));
    }

    drawAxes(root, x, y) {
      const { left, right, bottom } = this.frame;
      for (const [value, text] of this.spec.y.ticks) {
        svg("path", { class: "grid", d: `M${left} ${y(value)}H${right}` }, root);
        svg("text", { class: "tick", x: left - 7, y: y(value) + 4, "text-anchor": "end" }, root, shorten(text, MAX_NAME_LENGTH));
      }
      svg("path", { class: "axis", d: `M${left} ${bottom}H${right}` }, root);
      const ticks = this.spec.x.ticks.map(([value, text]) => [x(value), text]);
      for (const [tickX, text] of this.fitting(ticks)) {
        svg("path", { class: "axis", d: `M${tickX} ${bottom}v4` }, root);
        svg("text", { class: "tick", x: tickX, y: bottom + 17, "text-anchor": "middle" }, root, text);
      }
      this.drawTitles(root, this.spec.x.label, this.spec.y.label, right - left);
    }

    drawLines(root) {
      const { left, right, top, bottom } = this.frame;
      const x = makeScale(this.spec.x, left, right), y = makeScale(this.spec.y, bottom, top + 8);
      this.drawAxes(root, x, y);
      for (const rule of this.spec.rules) this.drawRule(root, rule, x, y);
      const order = [...this.spec.series.entries()].sort(([, a], [, b]) => this.layer(a) - this.layer(b));
      for (const [number, line] of order) if (!this.hiddenSeries.has(number)) this.drawSeries(root, line, number, x, y);
      for (const mark of this.spec.marks) this.drawMark(root, { kind: "mass", ...mark }, x, y);
      for (const mark of this.sliderMarks) this.drawMark(root, mark, x, y);
    }

    drawRule(root, { axis, position, label, dashed, low, high }, x, y) {
      const { left, right, top, bottom } = this.frame, isLevel = axis === "y";
      if (low !== null && high !== null) {
        const path = isLevel ? `M${left} ${y(low)}H${right}V${y(high)}H${left}Z` : `M${x(low)} ${top}H${x(high)}V${bottom}H${x(low)}Z`;
        svg("path", { class: "rule-band", d: path }, root);
      }
      const path = isLevel ? `M${left} ${y(position)}H${right}` : `M${x(position)} ${top}V${bottom}`;
      svg("path", { class: "rule", d: path, "stroke-dasharray": dashed ? "5 4" : "" }, root);
      const at = isLevel ? { x: left + 4, y: y(position) - 5 } : { x: x(position) + 4, y: bottom - 5 };
      if (label) svg("text", { class: "tick", ...at }, root, label);
    }

    // Secondary lines are drawn first, then the others, then the chosen curve.
    layer(line) {
      if (!line.secondary) return 1;
      return this.isChosen(line) ? 2 : 0;
    }

    hasInterval(line, i) {
      return line.low.length > 0 && line.low[i] !== null && line.high[i] !== null;
    }

    drawSeries(root, line, number, x, y) {
      const indices = [...line.x.keys()].filter((i) => line.x[i] !== null && line.y[i] !== null);
      const withInterval = indices.filter((i) => this.hasInterval(line, i));
      const isBold = !line.secondary || this.isChosen(line), isLine = LINE_SHAPES.has(line.shape);
      const position = (i, values) => `${x(line.x[i]).toFixed(1)} ${y(values[i]).toFixed(1)}`;
      if (isBold && isLine && withInterval.length > 1) {
        const upper = withInterval.map((i) => position(i, line.high));
        const lower = withInterval.map((i) => position(i, line.low)).reverse();
        this.paint("band", line, `M${upper.join("L")}L${lower.join("L")}Z`, root);
      }
      if (line.shape === "band") return;
      if (!isLine) for (const i of indices) {
        if (this.hasInterval(line, i)) this.paint("error-bar", line, `M${position(i, line.low)}V${y(line.high[i]).toFixed(1)}`, root);
        const [low, high] = [line.x_low[i] ?? null, line.x_high[i] ?? null];
        if (low !== null && high !== null) this.paint("error-bar", line, `M${x(low)} ${y(line.y[i])}H${x(high)}`, root);
      }
      if (line.shape === "line" || line.shape === "bare") {
        this.drawStroke(root, line, `M${indices.map((i) => position(i, line.y)).join("L")}`);
      }
      if (line.shape === "steps") {
        let path = "";
        indices.forEach((i, n) => { path += n ? `H${x(line.x[i]).toFixed(1)}V${y(line.y[i]).toFixed(1)}` : `M${position(i, line.y)}`; });
        this.drawStroke(root, line, path);
      }
      for (const i of indices) {
        const point = { x: x(line.x[i]), y: y(line.y[i]), series: number, index: i, text: this.describe(line, i) };
        if (line.name) this.points.push(point);
        if (line.marker && (!isLine || isBold)) this.drawMarker(root, line, point.x, point.y);
        if (line.bounds.includes(i)) this.drawMarker(root, line, point.x, point.y, "^", 4.5);
        if (line.texts[i]) {
          const fits = point.x + 5 + 6.4 * line.texts[i].length <= this.frame.width;
          const place = fits ? { x: point.x + 5 } : { x: point.x - 5, "text-anchor": "end" };
          svg("text", { class: "tick", ...place, y: point.y - 5 }, root, line.texts[i]);
        }
      }
    }

    describe(line, i) {
      if (this.spec.y.form === "name") return this.describeRow(line, i);
      const format = (value) => (this.spec.y.form === "percent" ? formatPercent(value) : value.toFixed(3));
      const interval = this.hasInterval(line, i) ? ` [${format(line.low[i])}, ${format(line.high[i])}]` : "";
      return `${line.name}, ${formatOnAxis(this.spec.x, line.x[i])}: ${format(line.y[i])}${interval}`;
    }

    // A mark is a critical mass with its interval, or a vertical line.
    drawMark(root, mark, x, y) {
      const { left, top, bottom } = this.frame;
      const group = svg("g", { class: "mark" }, root);
      if (mark.kind === "line") {
        svg("path", { d: `M${x(mark.x)} ${top}V${bottom}`, "stroke-dasharray": "2 3" }, group);
        return;
      }
      const markY = y(mark.y);
      svg("path", { class: "thin", d: `M${left} ${markY}H${x(mark.low)}` }, group);
      svg("path", { class: "thick", d: `M${x(mark.low)} ${markY}H${x(mark.high)}` }, group);
      svg("path", { class: "diamond", d: MARKERS.D(5), transform: `translate(${x(mark.x)} ${markY})` }, group);
      if (mark.label) svg("text", { class: "tick", x: x(mark.x) + 6, y: markY + 14 }, group, mark.label);
    }

    // Draws the figure for a chosen curve and the marks of the slider.
    update(chosenCurve, marks) {
      const axis = this.spec.x;
      this.chosenCurve = chosenCurve;
      this.sliderMarks = marks.filter((mark) => !axis || (mark.x >= axis.low && mark.x <= axis.high));
      this.draw();
    }

    onPointer(event) {
      const box = this.canvas.getBoundingClientRect(), scale = this.frame.width / box.width;
      const pointerX = (event.clientX - box.left) * scale, pointerY = (event.clientY - box.top) * scale;
      let nearest = null, smallest = Infinity;
      for (const point of this.points) {
        const distance = Math.abs(point.x - pointerX) * 1.5 + Math.abs(point.y - pointerY);
        if (distance < smallest) [nearest, smallest] = [point, distance];
      }
      if (nearest) this.select(nearest.series, nearest.index);
    }

    // Left and right move along a line (a row of cells), up and down between lines.
    onKey(event) {
      const steps = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
      if (event.key === "Escape") { this.deselect(); return; }
      const isEnd = event.key === "Home" || event.key === "End";
      if (!steps[event.key] && !isEnd) return;
      event.preventDefault();
      const numbers = [...new Set(this.points.map((point) => point.series))].sort((a, b) => a - b);
      if (!numbers.length) return;
      const pointsOf = (number) => this.points.filter((point) => point.series === number).sort((a, b) => a.x - b.x);
      if (!this.selected) { this.select(numbers[0], pointsOf(numbers[0])[0].index); return; }
      const clamp = (index, length) => Math.max(0, Math.min(length - 1, index));
      let line = pointsOf(this.selected.series);
      let index = line.findIndex((point) => point.index === this.selected.index);
      if (isEnd) index = event.key === "Home" ? 0 : line.length - 1;
      else {
        const [lineStep, pointStep] = steps[event.key];
        if (lineStep) {
          const { x } = line[index];
          line = pointsOf(numbers[clamp(numbers.indexOf(this.selected.series) + lineStep, numbers.length)]);
          index = line.reduce((nearest, point, i) => (Math.abs(point.x - x) < Math.abs(line[nearest].x - x) ? i : nearest), 0);
        } else index = clamp(index + pointStep, line.length);
      }
      this.select(line[index].series, line[index].index);
    }

    select(series, index) {
      const point = this.points.find((candidate) => candidate.series === series && candidate.index === index);
      if (!point) { this.deselect(); return; }
      this.selected = { series, index };
      this.readout.textContent = point.text;
      this.readout.classList.remove("hint");
      this.cursor.replaceChildren();
      if (point.box) {
        const [x, y, width, height] = point.box;
        svg("rect", { x, y, width, height }, this.cursor);
        return;
      }
      svg("path", { d: `M${point.x} ${this.frame.top}V${this.frame.bottom}` }, this.cursor);
      svg("circle", { cx: point.x, cy: point.y, r: 6.5 }, this.cursor);
    }

    deselect() {
      this.selected = null;
      if (this.cursor) this.cursor.replaceChildren();
      this.showHint();
    }
  }
  return { Chart, svg, html };
})();
