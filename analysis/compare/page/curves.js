// What was logged at each epoch: a chart for each term (loss, accuracy, ...), a line for each run and split.

import { choice, element, find } from "./elements.js";
import { formatMetric, timeUnit } from "./format.js";
import { logAxis, metricAxis, plot, plotText } from "./plot.js";
import { curves, runs } from "./report.js";
import { colourOf, shownRuns } from "./shown.js";

const MOST_TERMS = 8;
const FIRST_TERMS = ["loss", "accuracy", "mAP"];
const DASHES = ["dash", "dot", "dashdot"]; // of the phases of training
const chosen = { x: "epoch", y: "linear" };
const charts = findTerms();

// Return [term, names of what was logged of it] for every chart.
function findTerms() {
  const terms = new Map();
  for (const name of Object.values(curves).flatMap(Object.keys).filter((key) => key.includes("/"))) {
    const term = name.split("/").at(-1);
    if (!terms.has(term)) terms.set(term, new Set());
    terms.get(term).add(name);
  }
  const priority = (term) => (FIRST_TERMS.includes(term) ? FIRST_TERMS.indexOf(term) : FIRST_TERMS.length);
  const sorted = [...terms].sort(([a], [b]) => priority(a) - priority(b));
  return sorted.slice(0, MOST_TERMS).map(([term, names]) => [term, [...names]]);
}

export function setUpCurves() {
  const figure = (term) => {
    const chart = element("div", { className: "chart", "data-term": term });
    return element("figure", {}, element("figcaption", {}, term), chart);
  };
  find("#curves .grid").append(...charts.map(([term]) => figure(term)));
  const isThinned = Object.values(curves).some(({ epoch }) => epoch[2] - epoch[0] > 2);
  find("#curves .key").textContent = "Solid: validation.  Dashed: training.  ● best epoch   ✕ stopped early" +
    (isThinned ? "   Of long runs not every epoch is drawn." : "");
  const change = (axis) => (value) => {
    chosen[axis] = value;
    drawCurves();
  };
  choice("curves-x", [["epoch", "epochs"], ["seconds", "time"]], change("x"));
  choice("curves-y", [["linear", "linear"], ["log", "log"]], change("y"));
}

export function drawCurves() {
  const places = shownRuns();
  const unit = timeUnit(Math.max(...places.map((i) => curves[i].seconds.at(-1) ?? 0)));
  const title = chosen.x === "epoch" ? "epoch" : `${unit.name} of training`;
  for (const [k, [, names]] of charts.entries()) {
    const figure = find("#curves .grid").children[k];
    const traces = places.flatMap((i) => names.filter((name) => curves[i]?.[name]).map((name) => curve(i, name, unit)));
    figure.hidden = traces.length === 0;
    if (figure.hidden) continue;
    const values = traces.flatMap((trace) => trace.y).filter((value) => value !== null);
    const isLog = chosen.y === "log" && values.length > 0 && Math.min(...values) > 0;
    plot(find(".chart", figure), traces, {
      xaxis: { title: { text: title }, rangemode: "tozero", ...wholeEpochs(traces) },
      yaxis: isLog ? logAxis(values) : metricAxis(names[0]),
    });
  }
}

// Keep the ticks at whole epochs, however few there are.
function wholeEpochs(traces) {
  return chosen.x === "epoch" && Math.max(...traces.map((trace) => trace.x.at(-1))) <= 8 ? { dtick: 1 } : {};
}

function curve(i, name, unit) {
  const logged = curves[i], run = runs[i], color = colourOf(i);
  const isValidation = name.startsWith("val/");
  return {
    type: "scatter",
    mode: "lines+markers",
    x: chosen.x === "epoch" ? logged.epoch : logged.seconds.map((seconds) => seconds / unit.seconds),
    y: logged[name],
    name: plotText(run.name),
    meta: `<b>${plotText(run.name)}</b><br>${plotText(name)}`,
    customdata: logged.epoch,
    text: logged[name].map((value) => formatMetric(name, value)),
    hovertemplate: "%{meta} %{text}<br>epoch %{customdata}<extra></extra>",
    line: { color, width: isValidation ? 2 : 1.3, dash: isValidation ? "solid" : dashOf(logged, name) },
    opacity: isValidation ? 1 : 0.75,
    connectgaps: true,
    marker: { color, opacity: 1, line: { width: 2, color }, ...epochMarkers(run, logged.epoch, isValidation) },
  };
}

// Return the dash of a training curve: models that train in several phases have one for each.
function dashOf(logged, name) {
  const training = Object.keys(logged).filter((key) => key.startsWith("train/"));
  const phases = [...new Set(training.map((key) => key.split("/")[1]))];
  return DASHES[Math.max(0, phases.indexOf(name.split("/")[1])) % DASHES.length];
}

// Mark the best epoch of a validation curve and where a run was stopped; a single epoch is always a point.
function epochMarkers(run, epochs, isValidation) {
  const best = isValidation ? epochs.indexOf(run.bestEpoch) : -1;
  const last = isValidation && run.state.startsWith("stopped") ? epochs.length - 1 : -1;
  const sizeOf = (k) => (k === best || epochs.length === 1 ? 7 : 0);
  return {
    size: epochs.map((_, k) => (k === last ? 9 : sizeOf(k))),
    symbol: epochs.map((_, k) => (k === last ? "x-thin-open" : "circle")),
  };
}
