// Parallel coordinates, in plain SVG lines, since Plotly's own need WebGL. A box round a part of an axis picks the runs that pass it.

const MOST_LINES = 300;
const NUM_SHADES = 8;
const LACKING = -0.07; // height at which runs without a setting pass its axis
const WORST = [141, 152, 171], BEST = [226, 88, 34];

function drawParallel() {
  const section = find("#parallel");
  section.hidden = report.settings.length === 0 || ranked.length === 0;
  if (section.hidden) return;
  const stride = Math.ceil(ranked.length / MOST_LINES);
  const places = ranked.filter((_, place) => place % stride === 0);
  const axes = [...report.settings.map((_, k) => settingAxis(k)), lastAxis()];
  const note = stride > 1 ? `${places.length} of ${count(ranked.length, "run")}, spread evenly over the ranks.  ` : "";
  find(".key", section).textContent = `${note}Orange is best. ${IS_TOUCH ? "" : "Draw a box round a part of an axis to pick the runs that pass it (with Shift another one, too); double-click shows all."}`;
  const target = find("#parallel-chart");
  target.style.minWidth = `${90 * axes.length}px`;
  const height = (i) => axes.map((axis) => axis.height(runs[i]));
  plot(target, [...shades(places, height, new Set(places)), lineTrace([], height, ACCENT, 4, 1), points(places, height)], {
    height: 380, margin: { l: 34, r: 34, t: 34, b: 6 }, dragmode: IS_TOUCH ? false : "select",
    xaxis: { range: [-0.12, axes.length - 0.6], showgrid: false, showticklabels: false, fixedrange: true, automargin: false },
    yaxis: { range: [-0.1, 1.06], showgrid: false, showticklabels: false, fixedrange: true, automargin: false },
    shapes: axes.map((_, x) => ({ type: "line", x0: x, x1: x, y0: 0, y1: 1, line: { color: PLAIN, width: 1 }, layer: "above" })),
    annotations: axes.flatMap((axis, x) => [
      { x, y: 1.06, text: `<b>${plotText(axis.name.slice(0, 20))}</b>`, showarrow: false, yanchor: "bottom" },
      ...axis.ticks.map(([y, text]) => ({ x, y, text: plotText(text), showarrow: false, xanchor: "left", xshift: 4, font: { size: 11 } })),
    ]),
    newselection: { line: { color: ACCENT, width: 1 } },
  });
  for (const event of ["selected", "deselect", "hover", "unhover"]) target.removeAllListeners(`plotly_${event}`);
  target.on("plotly_hover", (event) => highlight(target, [event.points[0].customdata], height));
  target.on("plotly_unhover", () => highlight(target, [], height));
  target.on("plotly_selected", (event) => event && pick(target, places, height, new Set(keep(places, event.points))));
  target.on("plotly_deselect", () => pick(target, places, height, new Set(places)));
}

// Runs that are picked on every axis on which any is.
function keep(places, points) {
  const byAxis = Map.groupBy(points, (point) => point.x);
  const sets = [...byAxis.values()].map((found) => new Set(found.map((point) => point.customdata)));
  return places.filter((i) => sets.every((set) => set.has(i)));
}

function pick(target, places, height, picked) {
  const lines = shades(places, height, picked);
  Plotly.restyle(target, { x: lines.map((line) => line.x), y: lines.map((line) => line.y) }, lines.map((_, n) => n));
}

// The whole line of the run that the pointer is over.
function highlight(target, places, height) {
  const { x, y } = lineTrace(places, height);
  Plotly.restyle(target, { x: [x], y: [y] }, [NUM_SHADES + 1]);
}

// A trace for the runs that are left out, then one for each shade, the best on top.
function shades(places, height, picked) {
  const groups = Array.from({ length: NUM_SHADES }, () => []);
  places.forEach((i, place) => groups[NUM_SHADES - 1 - Math.floor((place / places.length) * NUM_SHADES)].push(i));
  const shade = (n) => `rgb(${WORST.map((from, c) => Math.round(from + ((BEST[c] - from) * n) / (NUM_SHADES - 1)))})`;
  const out = places.filter((i) => !picked.has(i));
  return [
    lineTrace(out, height, PLAIN, 1, 0.12),
    ...groups.map((group, n) => lineTrace(group.filter((i) => picked.has(i)), height, shade(n), n === NUM_SHADES - 1 && places.length < 60 ? 2 : 1.2, 0.55 + (0.4 * n) / NUM_SHADES)),
  ];
}

function lineTrace(places, height, color, width, opacity) {
  const x = [], y = [];
  for (const i of places) {
    const heights = height(i);
    x.push(...heights.keys(), null);
    y.push(...heights, null);
  }
  return { type: "scatter", mode: "lines", x, y, line: { color, width }, opacity, hoverinfo: "skip" };
}

// What the pointer and the selection find: every run on every axis.
function points(places, height) {
  const x = [], y = [], customdata = [], text = [];
  for (const i of places) {
    for (const [axis, value] of height(i).entries()) {
      x.push(axis);
      y.push(value);
      customdata.push(i);
      text.push(hoverText(i));
    }
  }
  const color = customdata.map((i) => (shown.has(i) ? colourOf(i) : PLAIN));
  const faded = { marker: { opacity: 0.25 } };
  return { type: "scatter", mode: "markers", x, y, customdata, text, hovertemplate: "%{text}<extra></extra>", selected: { marker: { opacity: 0.9 } }, unselected: faded,
    marker: { color, size: customdata.map((i) => (shown.has(i) ? 7 : 4)), opacity: 0.9 } };
}

function settingAxis(k) {
  const { name, is_number: isNumber, is_log: isLog } = report.settings[k];
  if (!isNumber) {
    const { names } = positions(k);
    const at = (n) => (names.length === 1 ? 0.5 : n / (names.length - 1));
    return { name, height: (run) => at(names.indexOf(formatSetting(run.settings[k]))), ticks: names.slice(0, 12).map((text, n) => [at(n), text.slice(0, 14)]) };
  }
  const values = ranked.map((i) => runs[i].settings[k]).filter((value) => value !== null);
  const { at, ticks } = numberAxis(values, isLog, (value) => formatNumber(value, isLog));
  const lacking = values.length < ranked.length ? [[LACKING, NONE]] : [];
  return { name, height: (run) => (run.settings[k] === null ? LACKING : at(run.settings[k])), ticks: [...ticks, ...lacking] };
}

function lastAxis() {
  const values = ranked.map((i) => runs[i].value);
  const { at, ticks } = numberAxis(values, isWide(values), isShare(report.metric.name) ? (value) => `${formatNumber(100 * value)} %` : formatNumber);
  return { name: report.metric.name, height: (run) => at(run.value), ticks };
}

// An axis from the least to the greatest value, with labels at round ones.
function numberAxis(values, isLog, format) {
  const low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  const scale = isLog ? Math.log : (value) => value;
  const at = (value) => (high > low ? (scale(value) - scale(low)) / (scale(high) - scale(low)) : 0.5);
  const distinct = [...new Set(values)];
  const ticks = distinct.length <= 6 && distinct.every(Number.isInteger) ? distinct : isLog ? logTicks([low, high]).tickvals : roundNumbers(low, high);
  return { at, ticks: ticks.filter((value) => value >= low && value <= high).map((value) => [at(value), format(value)]) };
}

// Multiples of 1, 2 or 5 times a power of ten, about five of them.
function roundNumbers(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const first = Math.ceil(low / step);
  return Array.from({ length: Math.floor(high / step) - first + 1 }, (_, n) => Number(((first + n) * step).toPrecision(6)));
}
