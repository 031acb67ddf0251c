// Which settings matter: a bar for each, with its standard error; where models have settings of their own, for each.

import { ACCENT, GREY } from "./colours.js";
import { choice, find } from "./elements.js";
import { count, shortenedApart } from "./format.js";
import { PERCENT, plot, plotText } from "./plot.js";
import { branches, importance } from "./report.js";

const MOST_BARS = 12;
const chosen = { importance };

export function setUpImportance() {
  choice("importance-of", branchOptions(), (model) => {
    chosen.importance = model ? branches[model].importance : importance;
    drawImportance();
  });
}

// Return what the runs can be narrowed down to: all of them, or those of one model.
export function branchOptions() {
  const models = Object.keys(branches);
  return models.length ? [["", "all models"], ...models.map((model) => [model, model])] : [];
}

export function drawImportance() {
  const { remark } = chosen.importance;
  const names = bars("names");
  const note = find("#importance .remark");
  note.textContent = remark;
  note.hidden = !remark;
  find("#importance-chart").hidden = names.length === 0;
  find("#importance .key").textContent = names.length ? explanation() : "";
  if (!names.length) return;
  const errors = bars("deviations"), chart = find("#importance-chart");
  const mostLetters = Math.max(12, Math.floor(chart.clientWidth / 24)); // so that the bars have room
  const trace = {
    type: "bar",
    orientation: "h",
    y: names.map(plotText),
    x: bars("means"),
    marker: { color: ACCENT },
    error_x: { type: "data", array: errors, color: GREY, thickness: 1.5 },
    text: bars("means").map((mean, k) => `${(100 * mean).toFixed(1)} ± ${(100 * errors[k]).toFixed(1)} %`),
    textposition: "none",
    hovertemplate: "<b>%{y}</b> %{text}<extra></extra>",
  };
  plot(chart, [trace], {
    height: 70 + 30 * names.length,
    xaxis: { tickformat: PERCENT, zeroline: true },
    yaxis: {
      type: "category",
      showgrid: false,
      tickvals: names.map(plotText),
      ticktext: shortenedApart(names, mostLetters).map(plotText),
    },
    bargap: 0.4,
  });
}

// Return what is known of the most important settings, the most important last: it is drawn on top.
function bars(key) {
  return chosen.importance[key].slice(0, MOST_BARS).reverse();
}

function explanation() {
  const { explained, num_runs: numRuns } = chosen.importance;
  return "How much of the variance of the runs’ ranks is due to each setting, alone and together with others, with " +
    "its standard error: how far a smooth surface through the ranks rises or falls when the setting takes the value " +
    `of another run (R² ${explained.toFixed(2)} for runs that were left out, ${count(numRuns, "run")}).`;
}
