// The shown runs side by side: their results, and the settings and circumstances in which they differ.

import { clipped, element, find } from "./elements.js";
import { formatMetric, formatSeconds, formatSetting, isLogSetting, NONE } from "./format.js";
import { details, figures, metric, runs } from "./report.js";
import { dot, shownRuns } from "./shown.js";

const PARTS = { settings: "settings", environment: "where it ran" };

export function drawComparer() {
  const places = shownRuns();
  const title = (i) => element("th", { scope: "col" }, dot(i), " ", clipped(runs[i].name));
  const head = element("tr", {}, element("th"), ...places.map(title));
  const rows = resultRows(places), same = [];
  for (const part of Object.keys(PARTS)) {
    const { differing, shared } = compareDetails(part, places);
    if (differing.length) rows.push(groupRow(PARTS[part], places), ...differing);
    same.push(...shared);
  }
  find("#differences").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  find("#shared").textContent = same.join("  ·  ");
  find("#comparer").hidden = places.length === 0;
}

function resultRows(places) {
  const texts = {
    [metric.name]: (run) => formatMetric(metric.name, run.value),
    ...Object.fromEntries(figures.map((name, k) => [name, (run) => formatMetric(name, run.figures[k])])),
    epochs: (run) => formatSetting(run.epochs),
    time: (run) => formatSeconds(run.seconds),
  };
  const told = Object.entries(texts).map(([name, text]) => [name, places.map((i) => text(runs[i]))]);
  const known = told.filter(([name, written]) => name === metric.name || written.some((text) => text !== NONE));
  const rows = known.map(([name, written]) => row(name, written));
  const best = places.findIndex((i) => runs[i].value !== null);
  if (best >= 0 && places.length > 1) rows[0].children[best + 1].className = "best";
  return [groupRow("results", places), ...rows];
}

// Return rows of what differs in a part of the runs' details, and a text for each thing that is the same.
function compareDetails(part, places) {
  const differing = [], shared = [];
  for (const name of new Set(places.flatMap((i) => Object.keys(details[i][part])))) {
    const values = places.map((i) => details[i][part][name]);
    const texts = values.map((value) => formatSetting(value, isLogSetting(name)));
    const numDifferent = new Set(values.map((value) => JSON.stringify(value))).size;
    const isTooShort = new Set(texts).size < numDifferent;
    const full = values.map((value) => (typeof value === "number" ? String(value) : formatSetting(value)));
    if (numDifferent > 1) differing.push(row(name, isTooShort ? full : texts));
    else shared.push(`${name}=${texts[0]}`);
  }
  return { differing, shared };
}

function row(name, texts) {
  const cells = texts.map((text) => element("td", {}, clipped(text)));
  return element("tr", {}, element("th", { scope: "row" }, clipped(name)), ...cells);
}

function groupRow(title, places) {
  return element("tr", { className: "group" }, element("th", { colSpan: places.length + 1 }, title));
}
