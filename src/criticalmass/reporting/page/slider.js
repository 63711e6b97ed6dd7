// What the reader sets: delta and the curve; and what the reader takes away: files.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const data = read("page-data");
  const papers = read("page-papers");
  const range = document.getElementById("delta");
  const said = document.getElementById("delta-said");
  const all = [];

  function save(name, type, parts) {
    const link = charts.html("a", { download: name });
    link.href = URL.createObjectURL(new Blob(parts, { type }));
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  function csv({ columns, rows }) {
    const cell = (value) => {
      if (value === null) return "";
      const text = String(value);
      return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  }

  const LOOK = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight"];

  // A drawing for itself: what the style sheet says is written into it.
  function standalone(chart) {
    const root = chart.plot.querySelector("svg"), copy = root.cloneNode(true);
    const from = root.querySelectorAll("*"), to = copy.querySelectorAll("*");
    from.forEach((part, i) => {
      const style = getComputedStyle(part);
      for (const name of LOOK) to[i].setAttribute(name, style.getPropertyValue(name));
      to[i].removeAttribute("class");
      if (part.tagName === "text") to[i].setAttribute("font-family", "sans-serif");
    });
    copy.querySelectorAll("g:empty").forEach((part) => part.remove());
    const { width, height } = chart.frame;
    const paper = getComputedStyle(document.body).backgroundColor;
    const sheet = charts.svg("rect", { width, height, fill: paper });
    const title = charts.svg("title", {}, null, chart.spec.title);
    copy.prepend(title, sheet);
    for (const [name, value] of Object.entries({ width, height, role: "img" })) copy.setAttribute(name, value);
    copy.removeAttribute("aria-hidden");
    return `<?xml version="1.0" encoding="UTF-8"?>\n${new XMLSerializer().serializeToString(copy)}\n`;
  }

  function bytes(base64) {
    return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  }

  function files(figure, chart) {
    const name = `${figure.dataset.file}`;
    const made = {
      csv: () => save(`${name}.csv`, "text/csv", [csv(chart.spec.table)]),
      svg: () => save(`${name}.svg`, "image/svg+xml", [standalone(chart)]),
      pdf: () => save(`${name}.pdf`, "application/pdf", [bytes(papers[figure.dataset.plot])]),
    };
    for (const button of figure.querySelectorAll("[data-save]")) {
      button.addEventListener("click", made[button.dataset.save]);
    }
  }

  const words = (place) => data.words[place];

  // Every number of the page that hangs on delta comes from one row, written beforehand.
  function row(curve) {
    return curve === null || curve === undefined ? null : data.curves[curve].rows[data.grid.indexOf(Number(range.value))];
  }

  function marks(chart, chosen) {
    const { follows, series } = chart.spec;
    if (follows === "delta") return [{ kind: "line", x: Number(range.value) / 1000 }];
    const mine = series.map((one) => one.curve).filter((curve) => curve !== null);
    const curve = follows === "value" ? (mine.includes(chosen) ? chosen : mine[0]) : chart.spec.curve;
    const now = row(curve);
    if (!now || now.mass === null || now.mass === undefined) return [];
    if (follows === "mass") return [{ kind: "line", x: now.mass }];
    return follows === "value" ? [{ kind: "mass", x: now.mass, low: now.low, high: now.high, y: now.bar }] : [];
  }

  function fill(section, chosen) {
    const now = row(chosen);
    for (const [part, place] of Object.entries(now.says)) {
      for (const spot of section.querySelectorAll(`[data-part="${part}"]`)) {
        if (spot.textContent !== words(place)) spot.textContent = words(place);
      }
    }
  }

  function field(section, chosen) {
    const drawing = section.querySelector("svg.field");
    const about = data.fields[section.dataset.run];
    if (!drawing || !about || data.curves[chosen].neurons !== about.neurons) return;
    const now = row(chosen), dark = Math.max(1, Math.round(now.kept / about.each));
    const place = (dot) => `M${(dot % about.columns) * 4 + 2} ${Math.floor(dot / about.columns) * 4 + 2}h0`;
    drawing.querySelector(".kept").setAttribute("d", about.order.slice(0, dark).map(place).join(""));
    drawing.querySelector(".rest").setAttribute("d", about.order.slice(dark).map(place).join(""));
    drawing.setAttribute("aria-label", words(now.dots));
  }

  function update() {
    const delta = `${Number(range.value) / 10}\u00a0%`;
    said.textContent = delta;
    range.setAttribute("aria-valuetext", `${delta} of the whole layer’s value`);
    for (const section of document.querySelectorAll("[data-run]")) {
      const choice = document.querySelector(`select[data-of="${section.dataset.run}"]`);
      const chosen = choice ? Number(choice.value) : data.first[section.dataset.run];
      if (chosen === null || chosen === undefined) continue;
      fill(section, chosen);
      field(section, chosen);
      for (const { figure, chart } of all) {
        if (section.contains(figure)) chart.set(chosen, marks(chart, chosen));
      }
    }
    for (const { figure, chart } of all) if (!figure.closest("[data-run]")) chart.draw();
  }

  document.documentElement.classList.add("scripted");
  for (const figure of document.querySelectorAll("figure[data-plot]")) {
    const chart = new charts.Chart(figure, data.plots[figure.dataset.plot]);
    all.push({ figure, chart });
    files(figure, chart);
  }
  for (const shy of document.querySelectorAll("[data-scripted]")) shy.hidden = false;
  range.addEventListener("input", update);
  for (const choice of document.querySelectorAll("select[data-of]")) choice.addEventListener("change", update);
  let waiting = 0, wide = window.innerWidth;
  window.addEventListener("resize", () => {
    if (window.innerWidth === wide) return;
    wide = window.innerWidth;
    cancelAnimationFrame(waiting);
    waiting = requestAnimationFrame(() => all.forEach(({ chart }) => chart.draw()));
  });
  // On paper nothing can be opened.
  window.addEventListener("beforeprint", () => {
    for (const part of document.querySelectorAll("details.record")) part.open = true;
  });
  update();
})();
