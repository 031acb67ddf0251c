// Charts by Plotly. Its script stands in the page before the modules; this is the only one that calls it.

import { formatNumber, shortenedApart } from "./format.js";
import { isPercentage, metric, runs } from "./report.js";

const { Plotly } = /** @type {any} */ (globalThis);

export const IS_TOUCH = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true,
  displaylogo: false,
  displayModeBar: !IS_TOUCH,
  modeBarButtons: [["toImage", "resetScale2d"]],
  doubleClick: "reset",
};
const LAYOUT = {
  height: 320,
  margin: { l: 52, r: 14, t: 30, b: 40 }, // on top: for the buttons
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: 12 },
  showlegend: false,
  hovermode: "closest",
  dragmode: IS_TOUCH ? false : "zoom",
  hoverlabel: { align: "left" },
};
const AXIS = { automargin: true, exponentformat: "e", gridwidth: 1, zeroline: false };

// Draw a chart, or draw it anew: what a reader has enlarged or hidden stays so as long as it has the same axes.
export function plot(target, traces, layout) {
  const axis = (own) => ({ ...AXIS, ...own, uirevision: `${own.title?.text} ${own.type}` });
  const axes = { xaxis: axis(layout.xaxis), yaxis: axis(layout.yaxis) };
  return Plotly.react(target, traces, { ...LAYOUT, ...layout, ...axes, uirevision: "same" }, CONFIG);
}

// Give the traces at some places of a chart other points.
export function movePoints(target, lines, places) {
  return Plotly.restyle(target, { x: lines.map((line) => line.x), y: lines.map((line) => line.y) }, places);
}

// Paper is narrower than the window: draw all charts for it, and for the window again afterwards.
export function resizeCharts(isPaper) {
  const paperPixels = 700;
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    const width = chart.closest("#curves, .pair") ? paperPixels / 2 - 10 : paperPixels;
    Plotly.relayout(chart, isPaper ? { width, autosize: false } : { width: undefined, autosize: true });
  }
}

// Escape a name for a chart, as Plotly reads some HTML in its texts.
export function plotText(text) {
  const escaped = String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  return escaped.replace(/\s+/g, " ");
}

const MOST_NAMES = 24; // that have a tick

// Return an axis of names, at 0, 1, ...; where they have no room beside each other, they stand upright.
export function nameAxis(names, mostLetters = 18) {
  const every = Math.ceil(names.length / MOST_NAMES);
  const tickvals = [...names.keys()].filter((n) => n % every === 0);
  const short = shortenedApart(names, mostLetters).map(plotText);
  const ticks = { tickvals, ticktext: tickvals.map((n) => short[n]), autotickangles: [0, 90] };
  return { ...ticks, range: [-0.5, names.length - 0.5] };
}

const MOST_DECADES = 12; // that have a tick

// Return a logarithmic axis with ticks at 1, 2 and 5, over many decades at 1 alone, or at some of these, each with its
// number; where values lie so close that there are no two of them in between, with ticks at round numbers.
export function logAxis(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const every = Math.ceil((last - first + 1) / MOST_DECADES);
  const powers = Array.from({ length: last - first + 1 }, (_, n) => first + n);
  const decades = powers.filter((power) => power % every === 0).map((power) => 10 ** power);
  const steps = high > 500 * low ? [1] : [1, 2, 5];
  const coarse = decades.flatMap((decade) => steps.map((step) => Number((step * decade).toPrecision(1))));
  const isTooCoarse = high > low && coarse.filter((tick) => tick >= low && tick <= high).length < 2;
  const tickvals = isTooCoarse ? multiples(low, high) : coarse;
  return { type: "log", tickvals, ticktext: tickvals.map((value) => formatNumber(value, true)) };
}

// Return multiples of 1, 2 or 5 times a power of ten, about five of them.
export function multiples(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step);
  const numbers = Array.from({ length: Math.floor(high / step) - first + 1 }, (_, n) => (first + n) * step);
  return numbers.map((value) => Number(value.toPrecision(6)));
}

export const PERCENT = ".4~%"; // no two ticks are written alike, and none with zeros behind it

const SHARES = { clipmin: -0.03, clipmax: 1.03 }; // of what lies from 0 to 1; beyond it stands the margin of a point

// Return the axis of some values of a metric.
export function metricAxis(name, values = []) {
  if (isPercentage(name)) return { tickformat: PERCENT, autorangeoptions: SHARES };
  return needsLog(name, values) ? logAxis(values) : {};
}

// Whether values of a metric need a logarithmic axis, which those up to 100 % never do.
export function needsLog(name, values) {
  const low = Math.min(...values), high = Math.max(...values);
  return !isPercentage(name) && values.length > 0 && low > 0 && high > 20 * low;
}

// Return the axis of the metric that the runs are ranked by.
export function valueAxis() {
  const values = runs.map((run) => run.value).filter((value) => value !== null);
  return { title: { text: plotText(metric.name) }, ...metricAxis(metric.name, values) };
}
