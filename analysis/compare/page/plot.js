// Charts by Plotly. Its script stands in the page before the modules; this is the only one that calls it.

import { formatNumber } from "./format.js";
import { isPercentage, metric, runs } from "./report.js";

const { Plotly } = /** @type {any} */ (globalThis);

export const IS_TOUCH = matchMedia("(pointer: coarse)").matches;
const CONFIG = {
  responsive: true,
  displaylogo: false,
  displayModeBar: IS_TOUCH ? false : "hover",
  modeBarButtons: [["toImage", "resetScale2d"]],
  doubleClick: "reset",
};
const LAYOUT = {
  height: 320,
  margin: { l: 52, r: 14, t: 10, b: 40 },
  paper_bgcolor: "rgba(0,0,0,0)",
  plot_bgcolor: "rgba(0,0,0,0)",
  font: { family: "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", size: 12 },
  showlegend: false,
  hovermode: "closest",
  dragmode: IS_TOUCH ? false : "zoom",
  hoverlabel: { align: "left" },
};
const AXIS = { automargin: true, exponentformat: "e", gridwidth: 1, zeroline: false };

// Draw a chart, or draw it anew.
export function plot(target, traces, layout) {
  const axes = { xaxis: { ...AXIS, ...layout.xaxis }, yaxis: { ...AXIS, ...layout.yaxis } };
  return Plotly.react(target, traces, { ...LAYOUT, ...layout, ...axes }, CONFIG);
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

// Return a logarithmic axis with ticks at 1, 2 and 5, over many decades at 1 alone, each with its number.
export function logAxis(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  const decades = Array.from({ length: last - first + 1 }, (_, n) => 10 ** (first + n));
  const steps = high > 500 * low ? [1] : [1, 2, 5];
  const tickvals = decades.flatMap((decade) => steps.map((step) => Number((step * decade).toPrecision(1))));
  return { type: "log", tickvals, ticktext: tickvals.map((value) => formatNumber(value, true)) };
}

export const metricAxis = (name) => (isPercentage(name) ? { tickformat: ".0%" } : {});

// Whether values need a logarithmic axis.
export function isWide(values) {
  return values.length > 0 && Math.min(...values) > 0 && Math.max(...values) > 20 * Math.min(...values);
}

// Return the axis of the metric that the runs are ranked by.
export function valueAxis() {
  const values = runs.map((run) => run.value).filter((value) => value !== null);
  return { title: { text: plotText(metric.name) }, ...(isWide(values) ? logAxis(values) : metricAxis(metric.name)) };
}
