// The best value so far, as the search went on: a staircase for each sweep, and its runs as points.

import { COLOURS, GREY } from "./colours.js";
import { choice, find } from "./elements.js";
import { timeUnit } from "./format.js";
import { markedRuns, runMarkers, stateKey } from "./markers.js";
import { plot, plotText, valueAxis } from "./plot.js";
import { metric, ranked, runs, sweeps } from "./report.js";

const chosen = { x: "number" };
const unit = timeUnit(Math.max(...runs.map((run) => run.ended)));
const X_TITLES = { number: "runs in the order of their starts", ended: `${unit.name} since the first start` };

const positionOf = (i) => (chosen.x === "number" ? runs[i].number : runs[i].ended / unit.seconds);
const isSearched = (i) => !runs[i].isFinal;
// Of a trial with several seeds or folds it is the mean, which is known when its last run ends: its luckiest is none.
const reached = (i) => runs[i].overSeeds?.mean ?? runs[i].value;
const sweepColour = (sweep) => COLOURS[sweeps.indexOf(sweep) % COLOURS.length];

export function setUpProgress() {
  choice("progress-x", [["number", "runs"], ["ended", "time"]], (value) => {
    chosen.x = value;
    drawProgress();
  });
}

export function drawProgress() {
  const lines = sweeps.map(staircase).filter((line) => line.x.length);
  const places = markedRuns().filter(isSearched);
  const colour = (i) => (sweeps.length > 1 ? sweepColour(runs[i].sweep) : GREY);
  const points = runMarkers(places, places.map(positionOf), places.map((i) => runs[i].value), colour);
  const whole = chosen.x === "number" && runs.length <= 8 ? { dtick: 1 } : {}; // no half runs
  find("#progress .key").textContent = stateKey(places);
  plot(find("#progress-chart"), [...lines, { ...points, showlegend: false }], {
    xaxis: { title: { text: X_TITLES[chosen.x] }, rangemode: "tozero", ...whole },
    yaxis: valueAxis(),
    showlegend: lines.length > 1,
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0 },
  });
}

// Leave out, of each trial with several seeds or folds, all runs but the last.
function lastOfTrials(inOrder) {
  const trialOf = (i) => (runs[i].overSeeds?.trial ?? runs[i].name);
  const last = new Map(inOrder.map((i) => [trialOf(i), i]));
  return inOrder.filter((i) => last.get(trialOf(i)) === i);
}

function staircase(sweep) {
  const searched = ranked.filter((i) => isSearched(i) && runs[i].sweep === sweep);
  const inOrder = lastOfTrials(searched.sort((i, j) => positionOf(i) - positionOf(j)));
  const better = metric.goal === "minimize" ? Math.min : Math.max;
  const y = [];
  for (const i of inOrder) y.push(y.length ? better(y.at(-1), reached(i)) : reached(i));
  return {
    type: "scatter",
    mode: "lines",
    x: inOrder.map(positionOf),
    y,
    line: { shape: "hv", width: 2.5, color: sweepColour(sweep) },
    hoverinfo: "skip",
    name: plotText(sweep || "no sweep"),
    showlegend: sweeps.length > 1,
  };
}
