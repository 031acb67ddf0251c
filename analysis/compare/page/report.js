// The data of the report, which analysis/compare/html_page.py writes into the page.
// A run is known by its place in `runs`, where the best one stands first.

/** @type {any} */
const report = JSON.parse(document.getElementById("data").textContent);

export const { metric, runs, settings, sweeps, figures, details, curves, pictures, importance, recipes, edges } =
  report;
export const { branches, front, isolation, numSkipped, skipped, tested, trials, warning, numMoreSettings } = report;

// Runs that can be shown: the page holds the curves of these alone.
export const showable = Object.keys(curves).map(Number);

// Runs that have a value of the metric, the best first.
export const ranked = runs.map((_, i) => i).filter((i) => runs[i].isRanked);

export const isPercentage = (name) => report.percentages.includes(name);
