// Runs as points of a chart: the symbol says how a run ended, the colour whether it is shown.

import { GREY } from "./colours.js";
import { count, formatMetric, settingText, shortened } from "./format.js";
import { plotText } from "./plot.js";
import { metric, ranked, runs, settings } from "./report.js";
import { colourOf, isShown } from "./shown.js";

export const STATES = {
  finished: { symbol: "circle", text: "● finished" },
  "stopped early": { symbol: "x-thin-open", text: "✕ stopped early" },
  stopped: { symbol: "x-thin-open", text: "✕ stopped" },
  failed: { symbol: "triangle-down-open", text: "▽ failed" },
  "not ended": { symbol: "circle-open", text: "○ not ended" },
  final: { symbol: "star", text: "★ final run" },
};
const MOST_MARKERS = 1500; // in a chart: more would make it slow
const MOST_SETTINGS = 6; // in the text at the pointer
const MOST_LETTERS = 60; // of a setting there
const MARKER = ranked.length > 200 ? { size: 5, opacity: 0.6 } : { size: 8, opacity: 0.9 };

// Return the runs that are drawn as points: all of them, or some spread evenly over the ranks and those that are shown.
export function markedRuns() {
  return spread(ranked, MOST_MARKERS);
}

export function spread(places, most) {
  const stride = Math.ceil(places.length / most);
  return places.filter((i, place) => place % stride === 0 || isShown(i));
}

// Return what is said of a run when the pointer is over it.
export function hoverText(i) {
  const run = runs[i];
  const end = run.state + (run.epochs === null ? "" : ` after ${count(run.epochs, "epoch")}`);
  const some = settings.slice(0, MOST_SETTINGS).map((setting, k) => `${setting.name} ${settingText(run, k)}`);
  const lines = [`${metric.name} ${formatMetric(metric.name, run.value)}`, end];
  const short = some.map((text) => shortened(text, MOST_LETTERS));
  return [`<b>${plotText(run.name)}</b>`, ...[...lines, ...short].map(plotText)].join("<br>");
}

// Return the trace of runs at points; `colour` gives the colour of a run that is not shown.
export function runMarkers(places, x, y, colour = (_i) => GREY) {
  const colours = places.map((i) => (isShown(i) ? colourOf(i) : colour(i)));
  return {
    type: "scatter",
    mode: "markers",
    x,
    y,
    customdata: places,
    text: places.map(hoverText),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      symbol: places.map((i) => STATES[runs[i].state].symbol),
      size: places.map((i) => (isShown(i) ? 11 : MARKER.size)),
      color: colours,
      opacity: places.map((i) => (isShown(i) ? 1 : MARKER.opacity)),
      line: { width: places.map((i) => (runs[i].state.startsWith("stopped") ? 2 : 1)), color: colours },
    },
  };
}

// Return the key of the symbols that some runs have.
export function stateKey(places) {
  const present = new Set(places.map((i) => runs[i].state));
  const states = Object.keys(STATES).filter((state) => present.has(state));
  return states.map((state) => STATES[state].text).join("   ");
}
