// Parallel coordinates, as plain lines, since Plotly's own need WebGL.
// A box round part of an axis keeps the runs that pass through it.

import { ACCENT, GREY } from "./colours.js";
import { choice, find } from "./elements.js";
import { count, shortened } from "./format.js";
import { branchOptions } from "./importance.js";
import { hoverText, spread } from "./markers.js";
import { parallelAxes } from "./parallel_axes.js";
import { IS_TOUCH, movePoints, plot, plotText } from "./plot.js";
import { branches, ranked, runs, settings } from "./report.js";
import { colourOf, isShown } from "./shown.js";

const MOST_LINES = 300;
const AXIS_PIXELS = 105; // of an axis at least
const MOST_LETTERS = 14; // of a line of an axis' title
const MOST_LINES_OF_TITLE = 3;
const NUM_SHADES = 8;
const WORST = [141, 152, 171], BEST = [226, 88, 34];
const HOVERED = NUM_SHADES + 1; // place of the trace of the run at the pointer
const NO_TICKS = { showgrid: false, showticklabels: false, fixedrange: true, automargin: false };

const boxes = {}; // by model
let model = "", found = [], places = [], axes = [], heights = new Map();

export function setUpParallel() {
  choice("parallel-of", branchOptions(), (picked) => {
    model = picked;
    drawParallel();
  });
}

// Take the runs of one model, over the settings that it has; of all models for "".
function choose() {
  const { runs: own, settings: some } = branches[model] ?? { runs: ranked, settings: [...settings.keys()] };
  const wanted = new Set(own);
  found = ranked.filter((i) => wanted.has(i));
  places = spread(found, MOST_LINES);
  axes = found.length ? parallelAxes(found, some) : []; // of all: boxes stay where they are when others are shown
  heights = new Map(places.map((i) => [i, axes.map((axis) => axis.height(runs[i]))]));
}

export function drawParallel() {
  const section = find("#parallel");
  section.hidden = settings.length === 0 || ranked.length === 0;
  if (section.hidden) return;
  choose();
  find(".key", section).textContent = explanation();
  const target = find("#parallel-chart");
  target.style.minWidth = `${AXIS_PIXELS * axes.length}px`;
  const titles = axes.map(({ name }) => linesOf(name));
  plot(target, [...shades(), lines([], ACCENT, 4, 1), points()], {
    height: 400,
    margin: { l: 50, r: 50, t: 20 + 14 * Math.max(...titles.map((lines) => lines.length)), b: 6 },
    dragmode: IS_TOUCH ? false : "select",
    xaxis: { range: [-0.12, axes.length - 0.6], ...NO_TICKS },
    yaxis: { range: [-0.1, 1.06], ...NO_TICKS },
    shapes: axes.map((_, x) => axisLine(x)),
    annotations: axes.flatMap((axis, x) => axisTexts(axis, x, titles[x])),
    selections: boxes[model] ?? [],
    selectionrevision: false, // else Plotly draws those of another model
    newselection: { line: { color: ACCENT, width: 1 } },
  });
  listen(target);
}

function explanation() {
  const isSome = places.length < found.length;
  const some = isSome
    ? `${places.length} of ${count(found.length, "run")}, spread evenly over the ranks, and those that are shown. `
    : "";
  const boxes = "Draw a box round part of an axis to keep the runs that pass through it; hold Shift to draw one on " +
    "another axis as well; double-click to show all runs again.";
  return `${some}The best runs are orange. ${IS_TOUCH ? "" : boxes}`;
}

function axisLine(x) {
  return { type: "line", x0: x, x1: x, y0: 0, y1: 1, line: { color: GREY, width: 1 }, layer: "above" };
}

// Return the lines of an axis' title: a long name is broken behind its words, and shortened where that is not enough.
function linesOf(name) {
  const lines = [""];
  for (const word of name.match(/[^_/.\-\s]*[_/.\-\s]?/g)) {
    const isFull = lines.at(-1) && (lines.at(-1) + word).length > MOST_LETTERS;
    if (isFull && lines.length < MOST_LINES_OF_TITLE) lines.push(word);
    else lines.push(lines.pop() + word);
  }
  return lines.map((line) => shortened(line, MOST_LETTERS));
}

function axisTexts(axis, x, lines) {
  const title = `<b>${lines.map(plotText).join("<br>")}</b>`;
  const tick = { x, showarrow: false, xanchor: "left", xshift: 4, font: { size: 11 } };
  return [
    {
      x,
      y: 1.06,
      text: title,
      hovertext: plotText(axis.name),
      showarrow: false,
      yanchor: "bottom",
      font: { size: 11 },
    },
    ...axis.ticks.map(([y, text, whole = text]) => ({ ...tick, y, text: plotText(text), hovertext: plotText(whole) })),
  ];
}

function listen(target) {
  const keep = (drawn) => {
    boxes[model] = drawn.map(({ type, x0, x1, y0, y1 }) => ({ type, x0, x1, y0, y1 }));
    movePoints(target, shades(), [...Array(NUM_SHADES + 1).keys()]);
  };
  const highlight = (some) => movePoints(target, [lines(some)], [HOVERED]);
  const actions = {
    plotly_hover: (event) => highlight([event.points[0].customdata]),
    plotly_unhover: () => highlight([]),
    plotly_selected: (event) => event && keep(event.selections),
    plotly_deselect: () => keep([]),
  };
  for (const [event, action] of Object.entries(actions)) {
    target.removeAllListeners(event);
    target.on(event, action);
  }
}

// Whether a run passes a box of every axis that has any.
function isPicked(i) {
  const isWithin = (value, end, other) => (value - end) * (value - other) <= 0;
  const passes = (height, x) => {
    const own = (boxes[model] ?? []).filter((box) => isWithin(x, box.x0, box.x1));
    return own.length === 0 || own.some((box) => isWithin(height, box.y0, box.y1));
  };
  return heights.get(i).every(passes);
}

// Return a trace of the runs that are not picked, then one for each shade, the best runs on top.
function shades() {
  const picked = new Set(places.filter(isPicked));
  const groups = Array.from({ length: NUM_SHADES }, () => []);
  places.forEach((i, place) => groups[NUM_SHADES - 1 - Math.floor((place / places.length) * NUM_SHADES)].push(i));
  const shade = (group, n) => {
    const colour = WORST.map((from, c) => Math.round(from + ((BEST[c] - from) * n) / (NUM_SHADES - 1)));
    const width = n === NUM_SHADES - 1 && places.length < 60 ? 2 : 1.2;
    return lines(group.filter((i) => picked.has(i)), `rgb(${colour})`, width, 0.55 + (0.4 * n) / NUM_SHADES);
  };
  return [lines(places.filter((i) => !picked.has(i)), GREY, 1, 0.12), ...groups.map(shade)];
}

function lines(some, color, width, opacity) {
  return {
    type: "scatter",
    mode: "lines",
    x: some.flatMap(() => [...axes.keys(), null]),
    y: some.flatMap((i) => [...heights.get(i), null]),
    line: { color, width },
    opacity,
    hoverinfo: "skip",
  };
}

// Return what the pointer and the boxes find: every run on every axis.
function points() {
  const repeated = places.flatMap((i) => axes.map(() => i));
  return {
    type: "scatter",
    mode: "markers",
    x: places.flatMap(() => [...axes.keys()]),
    y: places.flatMap((i) => heights.get(i)),
    customdata: repeated,
    text: places.flatMap((i) => Array(axes.length).fill(hoverText(i))),
    hovertemplate: "%{text}<extra></extra>",
    marker: {
      color: repeated.map(colourOf),
      size: repeated.map((i) => (isShown(i) ? 7 : 4)),
      opacity: 0.9,
      line: { width: 0 },
    },
    selected: { marker: { opacity: 0.9 } },
    unselected: { marker: { opacity: 0.25 } },
  };
}
