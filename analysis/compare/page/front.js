// The Pareto front of a sweep with several metrics: one of them against the first, and the runs on it as a table.

import { ACCENT } from "./colours.js";
import { choice, element, find } from "./elements.js";
import { count, formatMetric } from "./format.js";
import { runMarkers } from "./markers.js";
import { metricAxis, plot, plotText } from "./plot.js";
import { front, runs } from "./report.js";

const chosen = { x: 1 };

export function setUpFront() {
  const others = front ? front.metrics.slice(1).map(({ name }, k) => [String(k + 1), name]) : [];
  choice("front-x", others, (k) => {
    chosen.x = Number(k);
    drawFront();
  });
}

export function drawFront() {
  find("#front").hidden = !front;
  if (!front) return;
  const places = Object.keys(front.values).map(Number);
  const valuesOf = (some, k) => some.map((i) => front.values[i][k]);
  const line = [...front.best].sort((i, j) => front.values[i][chosen.x] - front.values[j][chosen.x]);
  const best = { x: valuesOf(line, chosen.x), y: valuesOf(line, 0), line: { color: ACCENT, width: 2, dash: "dot" } };
  const traces = [
    { type: "scatter", mode: "lines", hoverinfo: "skip", ...best },
    runMarkers(places, valuesOf(places, chosen.x), valuesOf(places, 0)),
  ];
  find("#front .key").textContent =
    `${count(front.best.length, "run")} of ${places.length}, on the dotted line, which no other run beats by every ` +
    "metric. Each has its values of the epoch that is its best by the first. " + goals();
  plot(find("#front-chart"), traces, { xaxis: axis(chosen.x), yaxis: axis(0) });
  const head = ["run", ...front.metrics.map(({ name }) => name)].map((text) => element("th", { scope: "col" }, text));
  find("#front table").replaceChildren(element("tr", {}, ...head), ...front.best.map(row));
}

function goals() {
  const words = front.metrics.map(({ name, goal }) => `${goal === "minimize" ? "less" : "more"} ${name}`);
  return `Better is ${words.join(", ")}.`;
}

function axis(k) {
  const { name } = front.metrics[k], values = Object.values(front.values).map((one) => one[k]);
  return { title: { text: plotText(name) }, ...metricAxis(name, values) };
}

function row(i) {
  const cells = front.metrics.map(({ name }, k) => element("td", {}, formatMetric(name, front.values[i][k])));
  return element("tr", {}, element("td", { className: "text" }, runs[i].name), ...cells);
}
