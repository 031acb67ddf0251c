// The best value in each part of a setting's range: a chart for each setting, the most important first, on one scale.

import { ACCENT, GREY } from "./colours.js";
import { element, find } from "./elements.js";
import { count, formatMetric, formatSetting, isLogSetting } from "./format.js";
import { logAxis, metricAxis, nameAxis, plot, plotText } from "./plot.js";
import { importance, isolation, isPercentage, metric } from "./report.js";

export function drawIsolation() {
  const names = Object.keys(isolation).sort((a, b) => place(a) - place(b));
  find("#isolation").hidden = names.length === 0;
  const hasExpected = names.some((name) => isolation[name].some((bin) => bin.expected));
  find("#isolation .key").textContent =
    "How good a run can be with such a value of one setting, the others chosen as " +
    "well as possible. Blue: the best run there, of several seeds or folds their mean; a larger point stands for " +
    "more runs." +
    (hasExpected
      ? " Dotted, with its standard deviation: what a smooth surface through all runs expects there, which is no " +
        "better than the best of all."
      : "");
  const charts = names.map((name) => element("div", { className: "chart", "data-setting": name }));
  const figures = charts.map((chart, k) => element("figure", {}, element("figcaption", {}, names[k]), chart));
  find("#isolation .grid").append(...figures); // all of them first: their number decides how wide they are
  const values = names.flatMap((name) => isolation[name].flatMap((bin) => [bin.best, ...(bin.expected ?? [])]));
  const axis = metricAxis(metric.name, values);
  const range = rangeOf(values, axis.type === "log", isPercentage(metric.name));
  const yaxis = { ...axis, range }; // of all, to see which settings matter
  charts.forEach((chart, k) => draw(chart, names[k], isolation[names[k]], yaxis));
}

// Return the range of an axis on which values have a margin; Plotly takes that of a logarithmic one in powers of ten.
// That of shares goes beyond 0 and 100 % by no more than a point needs, which is less than from one tick to the next.
function rangeOf(values, isLog, areShares) {
  const scaled = isLog ? values.map(Math.log10) : values;
  const low = Math.min(...scaled), high = Math.max(...scaled);
  const margin = 0.08 * (high - low) || 0.1 * Math.abs(high) || 0.1;
  const room = areShares ? 0.05 * (high - low + 2 * margin) : Infinity;
  return [Math.max(low - margin, -room), Math.min(high + margin, 1 + room)];
}

// Return the place of a setting in the order of importance; of those without, after all others.
function place(name) {
  const found = importance.names.indexOf(name);
  return found < 0 ? importance.names.length : found;
}

function draw(target, name, bins, yaxis) {
  const isNumber = bins.every((bin) => typeof bin.low === "number");
  const isLog = isNumber && isLogSetting(name);
  const edges = isNumber ? edgesOf(bins, isLog) : bins.map((_, k) => [k - 0.4, k + 0.4]);
  const best = steps(bins, edges, (bin) => bin.best, { width: 2.5, color: ACCENT });
  const expected = steps(bins, edges, (bin) => bin.expected?.[1], { width: 1.5, color: GREY, dash: "dot" });
  plot(target, [band(bins, edges), expected, best, middles(name, bins, edges, isLog)], {
    height: 240,
    xaxis: isNumber ? (isLog ? logAxis(edges.flat()) : {}) : nameAxis(bins.map((bin) => String(bin.low))),
    yaxis,
  });
}

// Return where the drawing of each bin begins and ends: half-way to its neighbours.
function edgesOf(bins, isLog) {
  const forth = isLog ? Math.log : (x) => x, back = isLog ? Math.exp : (x) => x;
  const between = bins.slice(1).map(({ low }, k) => back((forth(bins[k].high) + forth(low)) / 2));
  const [first, last] = [bins[0], bins.at(-1)];
  const beyond = (end, inner) => back(2 * forth(end) - forth(inner)); // as far out as the next edge lies within
  const start = first.low < first.high ? first.low : beyond(first.low, between[0]);
  const end = last.low < last.high ? last.high : beyond(last.high, between.at(-1));
  const all = [start, ...between, end];
  return bins.map((_, k) => [all[k], all[k + 1]]);
}

// Return the band of what is expected: a box for each bin.
function band(bins, edges) {
  const known = [...bins.keys()].filter((k) => bins[k].expected);
  const x = known.flatMap((k) => [edges[k][0], edges[k][1], edges[k][1], edges[k][0], null]);
  const y = known.flatMap((k) => [0, 0, 2, 2].map((which) => bins[k].expected[which]).concat(null));
  const fill = { fill: "toself", fillcolor: `${GREY}44`, line: { width: 0 } };
  return { type: "scatter", mode: "lines", x, y, ...fill, hoverinfo: "skip" };
}

// Return a line of steps, one for each bin that has a value.
function steps(bins, edges, valueOf, style) {
  const known = [...bins.keys()].filter((k) => valueOf(bins[k]) !== undefined);
  const isApart = (k) => edges[k + 1]?.[0] !== edges[k][1];
  const x = known.flatMap((k) => [...edges[k], ...(isApart(k) ? [null] : [])]);
  const y = known.flatMap((k) => [valueOf(bins[k]), valueOf(bins[k]), ...(isApart(k) ? [null] : [])]);
  return { type: "scatter", mode: "lines", x, y, line: style, hoverinfo: "skip" };
}

// Return points that tell of each bin what the pointer asks for; that of more runs is larger.
function middles(name, bins, edges, isLog) {
  const middle = ([from, to]) => (isLog ? Math.sqrt(from * to) : (from + to) / 2);
  return {
    type: "scatter",
    mode: "markers",
    x: edges.map(middle),
    y: bins.map((bin) => bin.best),
    text: bins.map((bin) => hoverText(name, bin, isLog)),
    hovertemplate: "%{text}<extra></extra>",
    marker: { color: ACCENT, size: bins.map((bin) => Math.min(16, 4 + 2 * Math.sqrt(bin.num_runs))) },
  };
}

function hoverText(name, bin, isLog) {
  const [low, high] = [bin.low, bin.high].map((value) => formatSetting(value, isLog));
  const figure = (value) => formatMetric(metric.name, value);
  const [least, mean, most] = (bin.expected ?? []).toSorted((x, y) => x - y).map(figure);
  return [
    `${name} ${low === high ? low : `${low} to ${high}`}`,
    `best ${metric.name} ${figure(bin.best)} of ${count(bin.num_runs, "run")}`,
    ...(bin.expected ? [`expected ${mean} (${least} to ${most})`] : []),
    bin.run,
  ].map(plotText).join("<br>");
}
