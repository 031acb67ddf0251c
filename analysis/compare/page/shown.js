// The runs that are shown in the charts and side by side, each in a colour of its own, and the bar that toggles them.

import { keep, keptValues } from "./address.js";
import { COLOURS, GREY } from "./colours.js";
import { clipped, element, find, refill } from "./elements.js";
import { formatMetric } from "./format.js";
import { metric, ranked, runs, showable } from "./report.js";

const NUM_SHOWN = 5; // at first
const NONE = ""; // in the address: no run is shown
const shown = new Map(); // place of a run -> its colour
let redraw = () => {};

export const isShown = (i) => shown.has(i);
export const colourOf = (i) => shown.get(i) ?? GREY;
export const shownRuns = () => [...shown.keys()].sort((i, j) => i - j);

// Show the runs that the address names, else the best; `draw` is called whenever other runs are shown.
export function showFirst(draw) {
  redraw = draw;
  const named = keptValues("run");
  const known = named.map((key) => showable.find((i) => runs[i].key === key)).filter((i) => i !== undefined);
  const best = ranked.filter((i) => showable.includes(i));
  const first = (best.length ? best : showable).slice(0, NUM_SHOWN);
  (known.length || named[0] === NONE ? known : first).forEach(show);
}

function show(i) {
  const taken = [...shown.values()];
  shown.set(i, COLOURS.find((colour) => !taken.includes(colour)) ?? COLOURS[shown.size % COLOURS.length]);
}

// Show a run, or hide it if it is shown.
export function toggle(i) {
  if (!showable.includes(i)) return;
  if (!shown.delete(i)) show(i);
  keep("run", shown.size ? [...shown.keys()].map((k) => runs[k].key) : [NONE]);
  redraw();
}

export function dot(i) {
  const made = element("span", { className: "dot" });
  made.style.setProperty("--run", colourOf(i));
  return made;
}

export function drawChips() {
  const bar = find("#chosen"), { scrollLeft } = bar;
  refill(bar, ...showable.map(chip));
  bar.scrollLeft = scrollLeft;
}

function chip(i) {
  const { name } = runs[i], value = formatMetric(metric.name, runs[i].value);
  const properties = {
    type: "button",
    className: "chip",
    onclick: () => toggle(i),
    title: `${name}  ${value}`,
    "data-run": i,
    "data-key": `run ${i}`,
    "aria-pressed": String(isShown(i)),
  };
  const made = element(
    "button",
    properties,
    dot(i),
    clipped(name),
    "  ",
    element("span", { className: "what" }, value),
  );
  made.style.setProperty("--run", colourOf(i));
  return made;
}
