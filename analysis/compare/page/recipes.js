// Runs that differ in seed or fold alone as one row: mean, deviation, interval, and the comparison with the first.

import { clipped, element, find } from "./elements.js";
import { count, formatMetric, NONE, settingText } from "./format.js";
import { recipes, runs, settings } from "./report.js";

export function drawRecipes() {
  const { shown: found, numLeftOut } = recipes;
  find("#recipes").hidden = found.length === 0;
  if (!found.length) return;
  const shown = settings.map((_, k) => k).filter((k) => !["seed", "fold"].includes(settings[k].name));
  const figures = [
    found.some((recipe) => recipe.hasFolds) ? "seeds and folds" : "seeds",
    "mean ± deviation",
    "95 % interval",
    "against the first of its kind",
  ];
  const names = ["recipe", ...shown.map((k) => settings[k].name), ...figures];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, name)));
  const rows = found.map((recipe) => row(recipe, shown));
  find("#recipes table").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  find("#recipes .key").textContent =
    "Runs that differ in seed or fold alone are one row. Values are the best logged ones. The interval is Student’s " +
    "for the mean over all seeds, or folds, cut off where the metric can go no further, as at 100 %. " +
    "Final runs stand in the order of their trials: nothing is chosen by test images." +
    (numLeftOut ? ` ${count(numLeftOut, "further recipe")} of a single run left out.` : "");
}

function row(recipe, shown) {
  const first = runs[recipe.runs[0]];
  const write = (value) => formatMetric(recipe.metric, value);
  const spread = recipe.deviation === null ? "" : ` ± ${write(recipe.deviation)}`;
  const texts = [
    recipe.kind === "final" ? `final, ${recipe.metric}` : recipe.metric,
    ...shown.map((k) => clipped(settingText(first, k))),
    recipe.numDraws.toLocaleString("en"),
    write(recipe.mean) + spread,
    recipe.low === null ? NONE : `${write(recipe.low)} to ${write(recipe.high)}`,
    recipe.againstFirst || "–",
  ];
  const title = recipe.runs.map((i) => runs[i].name).join(", ");
  return element("tr", { title }, ...texts.map((text) => element("td", {}, text)));
}
