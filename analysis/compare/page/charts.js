// Charts by Plotly: curves, best so far, a setting against the value, importance.

const STATES = {
  finished: { symbol: "circle", text: "● finished" },
  "stopped early": { symbol: "x-thin-open", text: "✕ stopped early" },
  stopped: { symbol: "x-thin-open", text: "✕ stopped" },
  failed: { symbol: "triangle-down-open", text: "▽ failed" },
  "not ended": { symbol: "circle-open", text: "○ not ended" },
  final: { symbol: "star", text: "★ final run" },
};
const ACCENT = "#4c78d8", PLAIN = "#8d98ab";
const SWEEP_COLOURS = ["#4c78d8", "#e8743b", "#2a9d8f", "#b05cc6", "#c99a1b", "#d6455d"];
const IS_TOUCH = matchMedia("(pointer: coarse)").matches;
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: IS_TOUCH ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]], doubleClick: "reset" };

function plot(target, traces, layout) {
  const axis = (own) => ({ automargin: true, exponentformat: "e", gridwidth: 1, zeroline: false, ...own });
  const whole = {
    height: 320, margin: { l: 52, r: 14, t: 10, b: 40 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: 12 }, showlegend: false,
    hovermode: "closest", dragmode: IS_TOUCH ? false : "zoom", hoverlabel: { align: "left" }, ...layout,
    xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis),
  };
  return Plotly.react(target, traces, whole, CONFIG);
}

// Ticks of a logarithmic axis at 1, 2 and 5, or at 1 alone; a figure is written out at each.
function logTicks(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const decades = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) decades.push(10 ** power);
  const steps = high > 500 * low ? [1] : [1, 2, 5];
  const tickvals = decades.flatMap((decade) => steps.map((step) => Number((step * decade).toPrecision(1))));
  return { type: "log", tickvals, ticktext: tickvals.map((value) => formatNumber(value, true)) };
}

const metricAxis = (name) => (isShare(name) ? { tickformat: ".0%" } : {});
const isWide = (values) => values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);

function valueAxis() {
  const values = runs.map((run) => run.value).filter((value) => value !== null);
  return { title: { text: plotText(report.metric.name) }, ...(isWide(values) ? logTicks(values) : metricAxis(report.metric.name)) };
}

// What is said of a run when the pointer is over it.
function hoverText(i) {
  const run = runs[i];
  const settings = report.settings.map((setting, k) => `${setting.name} ${settingText(run, k)}`);
  const end = run.state + (run.epochs === null ? "" : ` after ${count(run.epochs, "epoch")}`);
  return [`<b>${plotText(run.name)}</b>`, plotText(`${report.metric.name} ${formatMetric(report.metric.name, run.value)}`), plotText(end),
    ...settings.slice(0, 6).map((text) => plotText(text.slice(0, 60)))].join("<br>");
}

// Markers of runs: the shown ones in their colours, the symbol says how each ended.
function runMarkers(places, x, y, colour = () => PLAIN) {
  return {
    type: "scatter", mode: "markers", x, y, customdata: places, text: places.map(hoverText), hovertemplate: "%{text}<extra></extra>",
    marker: {
      symbol: places.map((i) => STATES[runs[i].state].symbol), size: places.map((i) => (shown.has(i) ? 11 : MARKER.size)),
      color: places.map((i) => (shown.has(i) ? colourOf(i) : colour(i))), opacity: places.map((i) => (shown.has(i) ? 1 : MARKER.opacity)),
      line: { width: places.map((i) => (runs[i].state.startsWith("stopped") ? 2 : 1)), color: places.map((i) => (shown.has(i) ? colourOf(i) : colour(i))) },
    },
  };
}

function stateKey(places) {
  const present = new Set(places.map((i) => runs[i].state));
  return Object.keys(STATES).filter((state) => present.has(state)).map((state) => STATES[state].text).join("   ");
}

const ranked = runs.map((_, i) => i).filter((i) => runs[i].value !== null && runs[i].state !== "failed");
const MOST_MARKERS = 1500; // of a chart; more would make it slow
const MARKER = ranked.length > 200 ? { size: 5, opacity: 0.6 } : { size: 8, opacity: 0.9 };
const marked = ranked.filter((_, place) => place % Math.ceil(ranked.length / MOST_MARKERS) === 0);

// Curves: a chart for each term, a line for each run and split.

const curves = { x: "epoch", y: "linear" };
const terms = new Map(); // term -> names of what was logged of it
for (const logged of Object.values(report.curves)) {
  for (const name of Object.keys(logged).filter((key) => key.includes("/"))) {
    const term = name.split("/").at(-1);
    if (!terms.has(term)) terms.set(term, new Set());
    terms.get(term).add(name);
  }
}
const MOST_TERMS = 8;
const byTerm = [...terms].sort(([a], [b]) => priority(a) - priority(b)).slice(0, MOST_TERMS);

function priority(term) {
  const place = ["loss", "accuracy"].indexOf(term);
  return place < 0 ? 2 : place;
}

function drawCurves() {
  const grid = find("#curves .grid");
  if (!grid.children.length) {
    grid.append(...byTerm.map(([term]) => element("figure", {}, element("figcaption", {}, term), element("div", { className: "chart", "data-term": term }))));
  }
  find("#curves .key").textContent = "Solid: validation.  Dashed: training.  ● best epoch   ✕ stopped early";
  for (const [k, [term, names]] of byTerm.entries()) {
    const traces = [...shown.keys()].flatMap((i) => [...names].filter((name) => report.curves[i]?.[name]).map((name) => curve(i, name)));
    grid.children[k].hidden = traces.length === 0;
    if (!traces.length) continue;
    const values = traces.flatMap((trace) => trace.y).filter((value) => value !== null);
    const isLog = curves.y === "log" && values.length > 0 && Math.min(...values) > 0;
    plot(find(".chart", grid.children[k]), traces, {
      xaxis: { title: { text: curves.x === "epoch" ? "epoch" : "minutes of training" }, rangemode: "tozero", ...epochTicks(traces) },
      yaxis: isLog ? logTicks(values) : metricAxis(term),
    });
  }
}

// Epochs are whole, however few they are.
function epochTicks(traces) {
  return curves.x === "epoch" && Math.max(...traces.map((trace) => trace.x.at(-1))) <= 8 ? { dtick: 1 } : {};
}

function curve(i, name) {
  const logged = report.curves[i];
  const isValidation = name.startsWith("val/");
  const best = isValidation ? logged.epoch.indexOf(runs[i].bestEpoch) : -1;
  const last = isValidation && runs[i].state.startsWith("stopped") ? logged.epoch.length - 1 : -1;
  const alone = logged.epoch.length === 1;
  const phases = [...new Set(Object.keys(logged).filter((key) => key.startsWith("train/")).map((key) => key.split("/")[1]))];
  const dash = isValidation ? "solid" : ["dash", "dot", "dashdot"][Math.max(0, phases.indexOf(name.split("/")[1])) % 3];
  return {
    type: "scatter", mode: "lines+markers", x: curves.x === "epoch" ? logged.epoch : logged.seconds.map((value) => value / 60), y: logged[name],
    name: plotText(runs[i].name), meta: `<b>${plotText(runs[i].name)}</b><br>${plotText(name)}`, customdata: logged.epoch,
    hovertemplate: `%{meta} %{y:${isShare(name) ? ".2%" : ".4~g"}}<br>epoch %{customdata}<extra></extra>`,
    line: { color: colourOf(i), width: isValidation ? 2 : 1.3, dash }, opacity: isValidation ? 1 : 0.75, connectgaps: true,
    marker: { color: colourOf(i), opacity: 1, line: { width: 2, color: colourOf(i) },
      size: logged.epoch.map((_, k) => (k === last ? 9 : k === best || alone ? 7 : 0)),
      symbol: logged.epoch.map((_, k) => (k === last ? "x-thin-open" : "circle")) },
  };
}

// Best so far: one staircase a sweep.

const progress = { x: "number" };

function drawProgress() {
  const search = ranked.filter((i) => runs[i].state !== "final");
  const isBetter = (a, b) => (report.metric.is_minimized ? a < b : a > b);
  const x = (i) => (progress.x === "number" ? runs[i].number : runs[i].ended / 3600);
  const lines = report.sweeps.map((sweep, k) => {
    const steps = search.filter((i) => runs[i].sweep === sweep).sort((i, j) => x(i) - x(j));
    let best = null;
    const y = steps.map((i) => (best = best === null || isBetter(runs[i].value, best) ? runs[i].value : best));
    return { type: "scatter", mode: "lines", x: steps.map(x), y, line: { shape: "hv", width: 2.5, color: SWEEP_COLOURS[k % SWEEP_COLOURS.length] },
      hoverinfo: "skip", name: plotText(sweep || "no sweep"), showlegend: report.sweeps.length > 1 };
  }).filter((line) => line.x.length);
  const places = marked.filter((i) => runs[i].state !== "final");
  const colour = (i) => (report.sweeps.length > 1 ? SWEEP_COLOURS[report.sweeps.indexOf(runs[i].sweep) % SWEEP_COLOURS.length] : PLAIN);
  find("#progress .key").textContent = stateKey(places);
  plot(find("#progress-chart"), [...lines, { ...runMarkers(places, places.map(x), places.map((i) => runs[i].value), colour), showlegend: false }], {
    xaxis: { title: { text: progress.x === "number" ? "runs in the order of their starts" : "hours since the first start" }, rangemode: "tozero" },
    yaxis: valueAxis(), showlegend: lines.length > 1, legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 }, margin: { l: 52, r: 14, t: 10, b: 40 },
  });
}

// A setting against the value.

const setting = { place: 0 };

// Where a setting's value lies on its axis: names are spread evenly, in the order of the numbers within them.
function positions(k) {
  const { is_number: isNumber } = report.settings[k];
  if (isNumber) return { at: (value) => value, ticks: {} };
  const names = [...new Set(runs.map((run) => formatSetting(run.settings[k])))].sort(BY_NAME.compare);
  return { names, at: (value) => names.indexOf(formatSetting(value)), ticks: { tickvals: names.map((_, n) => n), ticktext: names.map((name) => plotText(name.slice(0, 24))) } };
}

function drawSetting() {
  const k = setting.place;
  find("#setting").hidden = report.settings.length === 0;
  if (!report.settings.length) return;
  const { name, is_number: isNumber, is_log: isLog } = report.settings[k];
  const places = marked.filter((i) => isNumber ? runs[i].settings[k] !== null : true);
  const { at, ticks } = positions(k);
  const jitter = (i) => (isNumber ? 0 : ((i * 7) % 11 - 5) * 0.03);
  find("#setting .key").textContent = `${stateKey(places)}\nShown runs are coloured; click a point to show its run.`;
  plot(find("#setting-chart"), [runMarkers(places, places.map((i) => at(runs[i].settings[k]) + jitter(i)), places.map((i) => runs[i].value))], {
    xaxis: { title: { text: plotText(name) }, ...(isLog ? logTicks(places.map((i) => runs[i].settings[k])) : ticks), ...(isNumber ? {} : { range: [-0.5, ticks.tickvals.length - 0.5] }) },
    yaxis: valueAxis(),
  });
}

// Importance: bars with standard errors.

const MOST_BARS = 12;

function drawImportance() {
  const { explained, num_runs: numRuns, remark } = report.importance;
  const [names, means, deviations] = ["names", "means", "deviations"].map((key) => report.importance[key].slice(0, MOST_BARS));
  const note = find("#importance .remark");
  note.textContent = remark;
  note.hidden = !remark;
  find("#importance-chart").hidden = names.length === 0;
  find("#importance .key").textContent = names.length
    ? `Share of the variance of the runs’ ranks that is due to each setting, alone and together with others, with its standard error. A random forest, tested on runs it had not seen (R² ${explained.toFixed(2)}, ${count(numRuns, "run")}), lost as much when the setting was shuffled.`
    : "";
  if (!names.length) return;
  const reversed = (list) => [...list].reverse();
  plot(find("#importance-chart"), [{
    type: "bar", orientation: "h", y: reversed(names.map(plotText)), x: reversed(means), marker: { color: ACCENT },
    error_x: { type: "data", array: reversed(deviations), color: PLAIN, thickness: 1.5 },
    hovertemplate: "<b>%{y}</b> %{x:.1%} ± %{error_x.array:.1%}<extra></extra>", customdata: reversed(deviations),
  }], { height: 70 + 30 * names.length, xaxis: { tickformat: ".0%", zeroline: true }, yaxis: { type: "category", showgrid: false }, bargap: 0.4 });
}
