"use strict";
// The plots of Plotly; their colours are the style sheet's.
for (const place of document.querySelectorAll(".plot")) {
  const { data, layout } = JSON.parse(place.nextElementSibling.textContent);
  Object.assign(layout, { paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", autosize: true,
    font: { family: "system-ui, sans-serif" }, margin: { l: 60, r: 15, t: 30, b: 50 }, legend: { orientation: "h", y: -0.22 } });
  for (const key of Object.keys(layout)) {
    if (/^[xy]axis/.test(key)) layout[key].automargin = true;
  }
  Plotly.newPlot(place, data, layout, { responsive: true, displayModeBar: false });
}

// The trials: one selection and one set of filters, for the table and for the pictures beside it. `before` is the state
// of the section that this one stands in for.
function showTrials(section, before) {
  const { trials, settings, losses, logarithmic, floors, styles, epochs, strengths } = JSON.parse(section.querySelector("script").textContent);
  const byName = (names, values) => Object.fromEntries(names.map((name, n) => [name, values[n]]).filter(([, value]) => value !== null));
  for (const trial of trials) {
    Object.assign(trial, { settings: byName(settings, trial.settings), losses: byName(losses, trial.losses),
      epochs: epochs[trial.epochs], strengths: strengths[trial.strengths] });
  }
  const rows = [...section.querySelectorAll("tbody tr")], body = section.querySelector("tbody");
  const controls = section.querySelector(".controls"), pictures = section.querySelector(".pictures");
  const chosen = new Set();
  let visible = [];

  const dashes = { solid: "", dash: "8 4", dot: "2 3", dashdot: "8 3 2 3", longdash: "14 5", longdashdot: "14 4 2 4" };
  const shapes = {
    "circle": "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0Z", "square": "M-4.5,-4.5H4.5V4.5H-4.5Z", "triangle-up": "M0,-6L5.5,4.5H-5.5Z",
    "diamond": "M0,-6.5L6,0L0,6.5L-6,0Z", "cross": "M-2,-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z", "triangle-down": "M0,6L5.5,-4.5H-5.5Z",
    "pentagon": "M0,-6L6,-1.5L3.6,5.2H-3.6L-6,-1.5Z",
  };

  function svg(tag, attributes, ...children) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  function styled(element, arm) {
    const [colour, dash] = styles[arm];
    element.style.setProperty("--colour", colour);
    element.style.strokeDasharray = dashes[dash] ?? dash.replaceAll("px", "");
    return element;
  }

  function numberText(value) {
    if (typeof value !== "number") return value;
    const size = Math.abs(value);
    return size !== 0 && (size < 0.001 || size >= 1e6) ? value.toExponential(1).replace(".0e", "e") : String(+value.toPrecision(4));
  }

  // A scale from values to places between two pixels: words in order, numbers by their logarithm where they were searched so.
  function scaled(values, from, to, name) {
    if (values.some(value => typeof value === "string")) {
      const all = [...new Set(values.map(String))].sort();
      const at = value => from + (to - from) * (all.length === 1 ? 0.5 : 0.05 + 0.9 * all.indexOf(String(value)) / (all.length - 1));
      return { at, ticks: all };
    }
    // A call cannot take as many arguments as a long search has losses.
    let [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, -Infinity]);
    if (low === high) [low, high] = [low - (Math.abs(low) || 1) * 0.1, high + (Math.abs(high) || 1) * 0.1];
    const bends = logarithmic.includes(name) && low > 0, bend = bends ? Math.log10 : value => value;
    const at = value => from + (to - from) * (0.04 + 0.92 * (bend(value) - bend(low)) / (bend(high) - bend(low)));
    let ticks = [];
    if (bends) {
      for (let power = Math.floor(bend(low)); power <= bend(high); power += 1) {
        ticks.push(...[1, 2, 5].map(digit => digit * 10 ** power).filter(value => value >= 0.999 * low && value <= 1.001 * high));
      }
      if (ticks.length > 6) ticks = ticks.filter(value => Number.isInteger(Math.round(bend(value) * 1e6) / 1e6));
    }
    if (ticks.length < 2) {
      ticks = [];
      const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
      const step = [1, 2, 5, 10].map(digit => digit * power).find(value => value >= rough);
      for (let tick = Math.ceil(low / step); tick * step <= high + 1e-9 * step; tick += 1) ticks.push(tick * step);
    }
    return { at, ticks };
  }

  // Raw losses of different evaluation sets are never shown on one axis.
  function shift() {
    const several = new Set(visible.map(index => trials[index].group)).size > 1;
    return { of: trial => several ? floors[trial.group] : 0, words: several ? "above the best without dropout (nats)" : "(nats)" };
  }

  function valueOf(trial, name, shifted) {
    if (!losses.includes(name)) return trial.settings[name];
    const value = trial.losses[name], floor = shifted.of(trial);
    return value === undefined || floor === null ? undefined : value - floor;
  }

  function mark(index, label, ...children) {
    const made = svg("g", { class: "mark", "data-trial": index }, ...children);
    if (label) made.append(svg("text", { x: label[0], y: label[1] }, `${trials[index].name.split(", trial ")[1]}`));
    made.append(svg("title", {}, `${trials[index].search}: ${trials[index].name} (${trials[index].arm}, ${trials[index].state})`));
    return styled(made, trials[index].arm);
  }

  function curve(points) {
    const path = points.map(([x, y], n) => `${n ? "L" : "M"}${x.toFixed(1)},${y.toFixed(1)}`).join("");
    return [svg("path", { class: "hit", d: path }), svg("path", { class: "curve", d: path })];
  }

  function point(trial, x, y) {
    const hollow = trial.state === "complete" ? "" : " hollow";
    const made = svg("path", { class: `point${hollow}`, d: shapes[styles[trial.arm][2]], transform: `translate(${x.toFixed(1)},${y.toFixed(1)})` });
    made.style.strokeDasharray = "none";
    return made;
  }

  // An empty picture with two axes; returns it with its scales.
  function framed(name, xs, ys, xTitle, yTitle) {
    const place = pictures.querySelector(`[data-picture=${name}]`), width = Math.max(280, place.clientWidth), height = 300;
    place.previousElementSibling.textContent = `${yTitle}, by ${xTitle}`;
    place.replaceChildren();
    place.setAttribute("viewBox", `0 0 ${width} ${height}`);
    if (!xs.length) {
      place.append(svg("text", { x: 8, y: 24 }, "Nothing to show of these trials."));
      return null;
    }
    const x = scaled(xs, 56, width - 28, xTitle), y = scaled(ys, height - 44, 24);
    for (const tick of y.ticks) {
      place.append(svg("path", { class: "grid", d: `M56,${y.at(tick)}H${width - 12}` }));
      place.append(svg("text", { x: 50, y: y.at(tick) + 4, "text-anchor": "end" }, numberText(tick)));
    }
    for (const tick of x.ticks) {
      place.append(svg("text", { x: x.at(tick), y: height - 26, "text-anchor": "middle" }, numberText(tick)));
    }
    place.append(svg("path", { class: "axis", d: `M56,16V${height - 44}H${width - 12}` }));
    place.append(svg("text", { x: (56 + width) / 2, y: height - 6, "text-anchor": "middle" }, xTitle));
    return { place, x, y };
  }

  function drawScatter(shifted) {
    const [xName, yName] = [controls.elements.x.value, controls.elements.y.value];
    const found = visible.map(index => [index, valueOf(trials[index], xName, shifted), valueOf(trials[index], yName, shifted)])
      .filter(([, x, y]) => x !== undefined && y !== undefined);
    const frame = framed("scatter", found.map(([, x]) => x), found.map(([, , y]) => y), xName, `${yName} ${shifted.words}`);
    for (const [index, x, y] of frame ? found : []) {
      const [left, top] = [frame.x.at(x), frame.y.at(y)];
      frame.place.append(mark(index, [left + 8, top - 6], point(trials[index], left, top)));
    }
  }

  function drawCurves(shifted) {
    const found = visible.filter(index => trials[index].curve.length && shifted.of(trials[index]) !== null);
    const lift = (trial, value) => value - shifted.of(trial);
    const frame = framed("curves", found.flatMap(index => trials[index].epochs),
      found.flatMap(index => trials[index].curve.map(value => lift(trials[index], value))), "epoch", `high-entropy loss ${shifted.words}`);
    for (const index of frame ? found : []) {
      const trial = trials[index], points = trial.curve.map((value, n) => [frame.x.at(trial.epochs[n]), frame.y.at(lift(trial, value))]);
      const [left, top] = points.at(-1);
      frame.place.append(mark(index, [left + 7, top + 4], ...curve(points), point(trial, left, top)));
    }
  }

  function drawCurricula() {
    const found = visible.filter(index => trials[index].strengths.length);
    const frame = framed("curricula", found.length ? [0, 1] : [], [0, 1], "progress of the run", "strength of dropping");
    for (const index of frame ? found : []) {
      const strengths = trials[index].strengths;
      const points = strengths.map((value, n) => [frame.x.at((n + 0.5) / strengths.length), frame.y.at(value)]);
      const middle = points[Math.floor(points.length / 2)];
      frame.place.append(mark(index, [middle[0], middle[1] - 5], ...curve(points)));
    }
  }

  function drawParallel(shifted) {
    const place = pictures.querySelector("[data-picture=parallel]"), height = 334, loss = controls.elements.y.value;
    place.replaceChildren();
    const axisOf = name => ({ name, values: visible.map(index => valueOf(trials[index], name, shifted)) });
    const missing = axis => axis.values.filter(value => value === undefined).length;
    // A line breaks at an axis on which its trial has no value: the axes that most trials have are next to the loss.
    const varied = settings.map(axisOf).filter(axis => new Set(axis.values).size > 1).sort((one, other) => missing(other) - missing(one));
    const axes = [...varied, axisOf(loss)].filter(axis => missing(axis) < visible.length);
    place.style.minWidth = `${axes.length * 6.5}rem`;
    const width = Math.max(280, place.clientWidth);
    place.setAttribute("viewBox", `0 0 ${width} ${height}`);
    axes.forEach((axis, n) => {
      axis.x = 60 + n * (width - 180) / Math.max(1, axes.length - 1);
      Object.assign(axis, scaled(axis.values.filter(value => value !== undefined), height - 16, 54, axis.name));
    });
    visible.forEach((index, n) => {
      let parts = [[]];
      for (const axis of axes) {
        if (axis.values[n] === undefined) parts.push([]);
        else parts.at(-1).push([axis.x, axis.at(axis.values[n])]);
      }
      parts = parts.filter(points => points.length);
      if (!parts.length) return;
      const [left, top] = parts.at(-1).at(-1), drawn = points => points.length > 1 ? curve(points) : point(trials[index], ...points[0]);
      place.append(mark(index, [left + 8, top + 4], ...parts.flatMap(drawn)));
    });
    for (const axis of axes) {
      const over = svg("g", { class: "halo", "pointer-events": "none" });
      over.append(svg("path", { class: "axis", d: `M${axis.x},50V${height - 12}` }));
      const lines = axis.name === loss ? [[12, loss], [26, shifted.words]] : [[40, axis.name]];
      for (const [y, words] of lines) over.append(svg("text", { x: axis.x, y, "text-anchor": "middle" }, words));
      for (const tick of axis.ticks) over.append(svg("text", { x: axis.x - 6, y: axis.at(tick) + 4, "text-anchor": "end" }, numberText(tick)));
      const brush = svg("rect", { class: "brush", x: axis.x - 7, y: 46, width: 14, height: height - 54 });
      brush.addEventListener("pointerdown", event => brushAxis(place, axis, brush, event));
      place.append(over, brush);
    }
  }

  // A drag along an axis selects the trials whose values it covers.
  function brushAxis(place, axis, brush, down) {
    const toPicture = event => (event.clientY - place.getBoundingClientRect().top) * place.viewBox.baseVal.height / place.clientHeight;
    const began = toPicture(down), shown = svg("rect", { class: "brushed", x: axis.x - 7, width: 14, y: began, height: 0 });
    place.append(shown);
    brush.setPointerCapture(down.pointerId);
    const range = event => [Math.min(began, toPicture(event)), Math.max(began, toPicture(event))];
    brush.onpointermove = event => {
      const [top, bottom] = range(event);
      shown.setAttribute("y", top);
      shown.setAttribute("height", bottom - top);
    };
    // The browser cancels what it takes for scrolling.
    const end = brush.onpointercancel = () => {
      brush.onpointermove = brush.onpointerup = brush.onpointercancel = null;
      shown.remove();
    };
    brush.onpointerup = event => {
      const [top, bottom] = range(event);
      end();
      if (bottom - top < 4) return;
      chosen.clear();
      axis.values.forEach((value, n) => {
        if (value !== undefined && axis.at(value) >= top && axis.at(value) <= bottom) chosen.add(visible[n]);
      });
      showSelection();
    };
  }

  function draw() {
    const shifted = shift();
    drawParallel(shifted);
    drawScatter(shifted);
    drawCurves(shifted);
    drawCurricula();
    showSelection();
  }

  function filter() {
    const wanted = ["search", "model", "arm", "state"].map(name => [name, controls.elements[name]?.value]).filter(([, value]) => value);
    const only = controls.elements.only.checked;
    visible = trials.map((_, index) => index)
      .filter(index => wanted.every(([name, value]) => trials[index][name] === value) && (!only || chosen.has(index)));
    const kept = new Set(visible);
    for (const row of rows) row.hidden = !kept.has(+row.dataset.trial);
    draw();
  }

  function showSelection() {
    pictures.classList.toggle("some", visible.some(index => chosen.has(index)));
    for (const row of rows) {
      const is = chosen.has(+row.dataset.trial);
      row.classList.toggle("chosen", is);
      row.querySelector("input").checked = is;
    }
    for (const made of [...pictures.querySelectorAll(".mark")]) {
      const is = chosen.has(+made.dataset.trial);
      made.classList.toggle("chosen", is);
      // Later ones lie above; the axes of parallel coordinates stay on top.
      if (is) made.parentNode.insertBefore(made, made.parentNode.querySelector(".halo"));
    }
    section.querySelector("[role=status]").textContent = `${visible.length} of ${trials.length} trials shown, ${chosen.size} selected`;
  }

  function toggle(index) {
    if (!chosen.delete(index)) chosen.add(index);
    if (controls.elements.only.checked) filter();
    else showSelection();
  }

  function pointAt(index) {
    for (const element of section.querySelectorAll(".pointed")) element.classList.remove("pointed");
    if (index !== undefined) {
      for (const element of section.querySelectorAll(`[data-trial="${index}"]`)) element.classList.add("pointed");
    }
  }

  function sort(header, column) {
    const rising = header.getAttribute("aria-sort") !== "ascending";
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", rising ? "ascending" : "descending");
    const of = row => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    rows.sort((one, other) => {
      const [a, b] = [of(one), of(other)];
      // What has no value is last, whichever way the rest is sorted.
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = Number.isFinite(+a) && Number.isFinite(+b);
      return (numbers ? a - b : a.localeCompare(b)) * (rising ? 1 : -1);
    });
    body.append(...rows);
  }

  section.querySelectorAll("thead th").forEach((header, column) => {
    if (header.dataset.plain !== undefined) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...header.childNodes);
    button.addEventListener("click", () => sort(header, column));
    header.append(button);
  });
  for (const key of section.querySelectorAll("[data-key]")) {
    const sample = { arm: key.dataset.key, state: "complete" };
    key.prepend(svg("svg", { viewBox: "0 0 40 14", "aria-hidden": "true" }, styled(svg("g", { class: "mark" }, ...curve([[0, 7], [40, 7]]), point(sample, 20, 7)), sample.arm)));
  }
  for (const name of ["x", "y"]) controls.elements[name].addEventListener("change", draw);
  for (const name of ["search", "model", "arm", "state", "only"]) controls.elements[name]?.addEventListener("change", filter);
  controls.elements.clear.addEventListener("click", () => {
    chosen.clear();
    controls.elements.only.checked = false;
    filter();
  });
  body.addEventListener("change", event => toggle(+event.target.closest("tr").dataset.trial));
  section.addEventListener("click", event => {
    const target = event.target.closest("[data-trial]");
    if (target && !event.target.closest("label, a")) toggle(+target.dataset.trial);
  });
  section.addEventListener("pointerover", event => pointAt(event.target.closest?.("[data-trial]")?.dataset.trial));
  section.addEventListener("pointerleave", () => pointAt());
  section.addEventListener("focusin", event => pointAt(event.target.closest("tr[data-trial]")?.dataset.trial));
  section.querySelectorAll("[data-needs-script]").forEach(element => { element.hidden = false; });
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (entry.contentRect.width !== width) {
      width = entry.contentRect.width;
      draw();
    }
  }).observe(pictures);

  const table = section.querySelector(".rows"), headers = [...section.querySelectorAll("thead th")];
  const keyOf = trial => `${trial.search} ${trial.name}`, titleOf = header => header.textContent.trim();
  const selects = [...controls.elements].filter(control => control.tagName === "SELECT");
  section.state = () => {
    const sorted = headers.find(header => header.ariaSort), focused = document.activeElement;
    const row = focused.closest("[data-trial]");
    return {
      chosen: [...chosen].map(index => keyOf(trials[index])), only: controls.elements.only.checked,
      values: Object.fromEntries(selects.map(select => [select.name, select.value])),
      sorted: sorted && [titleOf(sorted), sorted.ariaSort], scrolled: [table.scrollLeft, table.scrollTop],
      focused: section.contains(focused) && (row ? keyOf(trials[row.dataset.trial]) : focused.name),
    };
  };
  if (before) {
    const wanted = new Set(before.chosen);
    trials.forEach((trial, index) => { if (wanted.has(keyOf(trial))) chosen.add(index); });
    controls.elements.only.checked = before.only;
    for (const select of selects) {
      if ([...select.options].some(option => option.value === before.values[select.name])) select.value = before.values[select.name];
    }
    const column = before.sorted ? headers.findIndex(header => titleOf(header) === before.sorted[0]) : -1;
    for (let turn = 0; column >= 0 && turn < (before.sorted[1] === "ascending" ? 1 : 2); turn += 1) sort(headers[column], column);
  }
  filter();
  if (before) {
    table.scrollTo(...before.scrolled);
    const row = rows.find(row => keyOf(trials[row.dataset.trial]) === before.focused);
    (row?.querySelector("input") ?? controls.elements[before.focused])?.focus?.({ preventScroll: true });
  }
}
for (const section of document.querySelectorAll("#trials")) showTrials(section);
