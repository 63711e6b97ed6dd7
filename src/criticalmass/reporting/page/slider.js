// The slider, the choice of a curve, and the buttons that save files.
(() => {
  const readJson = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = readJson("page-data");
  const pdfs = readJson("page-pdfs");
  const slider = document.getElementById("delta");
  const sliderValue = document.getElementById("delta-value");
  const figures = []; // { figure, chart }

  function saveFile(name, type, parts) {
    const link = charts.html("a", { download: name });
    link.href = URL.createObjectURL(new Blob(parts, { type }));
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function toCsv({ columns, rows }) {
    const toCell = (value) => {
      if (value === null) return "";
      const text = String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    // One value for all rows, distinct values with the index of each row, or a value by row.
    const at = ({ values, index }, row) => (index === null ? values[row] : values[index[row] ?? 0]);
    const lines = [columns.map(({ name }) => toCell(name))];
    for (let row = 0; row < rows; row += 1) lines.push(columns.map((column) => toCell(at(column, row))));
    return lines.map((line) => line.join(",")).join("\n") + "\n";
  }

  const STYLE_PROPERTIES = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight"];

  // Returns a drawing as an SVG file; computed styles become attributes.
  function toSvgFile(chart) {
    const original = chart.canvas.querySelector("svg"), copy = original.cloneNode(true);
    const sources = original.querySelectorAll("*"), targets = copy.querySelectorAll("*");
    sources.forEach((source, i) => {
      const style = getComputedStyle(source);
      for (const name of STYLE_PROPERTIES) targets[i].setAttribute(name, style.getPropertyValue(name));
      for (const name of ["class", "style"]) targets[i].removeAttribute(name);
      if (source.tagName === "text") targets[i].setAttribute("font-family", "sans-serif");
    });
    copy.querySelectorAll("g:empty").forEach((group) => group.remove());
    const { width, height } = chart.frame;
    const fill = getComputedStyle(document.body).backgroundColor;
    const background = charts.svg("rect", { width, height, fill });
    const title = charts.svg("title", {}, null, chart.spec.title);
    copy.prepend(title, background);
    for (const [name, value] of Object.entries({ width, height, role: "img" })) copy.setAttribute(name, value);
    copy.removeAttribute("aria-hidden");
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
  }

  function decodeBase64(text) {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  }

  function enableButtons(figure, chart) {
    const name = figure.dataset.plot;
    const actions = {
      csv: () => saveFile(`${name}.csv`, "text/csv", [toCsv(chart.spec.table)]),
      svg: () => saveFile(`${name}.svg`, "image/svg+xml", [toSvgFile(chart)]),
      pdf: () => saveFile(`${name}.pdf`, "application/pdf", [decodeBase64(pdfs[name])]),
    };
    for (const button of figure.querySelectorAll("[data-save]")) {
      button.addEventListener("click", actions[button.dataset.save]);
    }
  }

  // Everything that depends on delta is in one row per curve and stop of the slider.
  function rowAtSlider(curve) {
    if (curve === null || curve === undefined) return null;
    return data.curves[curve].rows[data.stops.indexOf(Number(slider.value))];
  }

  function sliderMarks(chart, chosenCurve) {
    const { follows, series, curve } = chart.spec;
    if (follows === "delta") return [{ kind: "line", x: Number(slider.value) / 1000 }];
    const curves = series.map((line) => line.curve).filter((number) => number !== null);
    const markedCurve = curves.includes(chosenCurve) ? chosenCurve : curves[0];
    const row = rowAtSlider(follows === "value" ? markedCurve : curve);
    if (!row || row.mass === null || row.mass === undefined) return [];
    if (follows === "mass") return [{ kind: "line", x: row.mass }];
    return follows === "value" ? [{ kind: "mass", x: row.mass, low: row.low, high: row.high, y: row.target }] : [];
  }

  function updateTexts(section, row) {
    for (const [part, index] of Object.entries(row.strings)) {
      const text = data.strings[index];
      for (const element of section.querySelectorAll(`[data-part="${part}"]`)) {
        if (element.textContent !== text) element.textContent = text;
      }
    }
  }

  // Colours as many dots of the neuron field as neurons are kept.
  function updateField(section, curve, row) {
    const drawing = section.querySelector("svg.field");
    const layout = data.fields[section.dataset.run];
    if (!drawing || !layout || data.curves[curve].neurons !== layout.neurons) return;
    const kept = Math.max(1, Math.round(row.kept / layout.per_dot));
    const path = (dot) => `M${(dot % layout.columns) * 4 + 2} ${Math.floor(dot / layout.columns) * 4 + 2}h0`;
    drawing.querySelector(".kept").setAttribute("d", layout.order.slice(0, kept).map(path).join(""));
    drawing.querySelector(".rest").setAttribute("d", layout.order.slice(kept).map(path).join(""));
    drawing.setAttribute("aria-label", data.strings[row.field_label]);
  }

  function update() {
    const delta = `${Number(slider.value) / 10}\u00a0%`;
    sliderValue.textContent = delta;
    slider.setAttribute("aria-valuetext", `${delta} of the whole layer’s value`);
    for (const section of document.querySelectorAll("[data-run]")) {
      const list = document.querySelector(`select[data-of="${section.dataset.run}"]`);
      const curve = list ? Number(list.value) : data.headlineCurves[section.dataset.run];
      if (curve === null || curve === undefined) continue;
      const row = rowAtSlider(curve);
      updateTexts(section, row);
      updateField(section, curve, row);
      for (const { figure, chart } of figures) {
        if (section.contains(figure)) chart.update(curve, sliderMarks(chart, curve));
      }
    }
    for (const { figure, chart } of figures) if (!figure.closest("[data-run]")) chart.draw();
  }

  for (const figure of document.querySelectorAll("figure[data-plot]")) {
    const chart = new charts.Chart(figure, data.plots[figure.dataset.plot]);
    figures.push({ figure, chart });
    enableButtons(figure, chart);
  }
  for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;
  slider.addEventListener("input", update);
  for (const list of document.querySelectorAll("select[data-of]")) list.addEventListener("change", update);
  let pendingFrame = 0, lastWidth = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === lastWidth) return;
    lastWidth = window.innerWidth;
    cancelAnimationFrame(pendingFrame);
    pendingFrame = requestAnimationFrame(() => figures.forEach(({ chart }) => chart.draw()));
  });
  // On paper nothing can be opened.
  window.addEventListener("beforeprint", () => {
    for (const record of document.querySelectorAll("details.record")) record.open = true;
  });
  update();
})();
