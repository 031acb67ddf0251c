// The runs that are shown in the charts and side by side, each in a colour of its own, and the bar that toggles them.

import { keep, keptValues } from "./address.js";
import { COLOURS, GREY } from "./colours.js";
import { clipped, element, find, refill } from "./elements.js";
import { formatMetric } from "./format.js";
import { metric, ranked, runs, showable } from "./report.js";

const NUM_SHOWN = 5; // at first
const shown = new Map(); // place of a run -> its colour
let redraw = () => {};

export const isShown = (i) => shown.has(i);
export const colourOf = (i) => shown.get(i) ?? GREY;
export const shownRuns = () => [...shown.keys()].sort((i, j) => i - j);

// Show the runs that the address names, else the best; `draw` is called whenever other runs are shown.
export function showFirst(draw) {
  redraw = draw;
  const named = keptValues("run").map((name) => showable.find((i) => nameOf(i) === name));
  const known = named.filter((i) => i !== undefined);
  const best = ranked.filter((i) => showable.includes(i));
  (known.length ? known : (best.length ? best : showable).slice(0, NUM_SHOWN)).forEach(show);
}

// Return the name of a run in the address: runs of different sweeps may have one id.
function nameOf(i) {
  const { sweep, name } = runs[i];
  return sweep ? `${sweep}/${name}` : name;
}

function show(i) {
  const taken = [...shown.values()];
  shown.set(i, COLOURS.find((colour) => !taken.includes(colour)) ?? COLOURS[shown.size % COLOURS.length]);
}

// Show a run, or hide it if it is shown.
export function toggle(i) {
  if (!showable.includes(i)) return;
  if (!shown.delete(i)) show(i);
  keep("run", [...shown.keys()].map(nameOf));
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
