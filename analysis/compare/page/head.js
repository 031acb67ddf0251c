// The top of the page: what is compared, the tiles, warnings, links to the sections.

import { element, find } from "./elements.js";
import { count, formatMetric, formatSeconds, formatSetting, settingText } from "./format.js";
import { STATES } from "./markers.js";
import { figures, metric, numSkipped, runs, settings, skipped, tested, trials, warning } from "./report.js";

const MOST_MODELS = 3; // that are named

const sum = (values) => values.reduce((total, value) => total + value, 0);
const mean = (values) => sum(values) / values.length;
const distinct = (values) => [...new Set(values)];

export function drawHead() {
  find("#subtitle").textContent = subtitle();
  find("#tiles").replaceChildren(...[...finalTiles(), ...bestTiles(), runsTile(), ...timeTiles()]);
  find("#warning").textContent = warnings().join(" ");
  find("#warning").hidden = warnings().length === 0;
  const sections = [...document.querySelectorAll("section")].filter((section) => !section.hidden);
  find("nav").append(...sections.map((one) => element("a", { href: `#${one.id}` }, one.dataset.title)));
}

function subtitle() {
  const models = distinct(runs.map((run) => run.model));
  const days = distinct(runs.map((run) => run.created.slice(0, 10))).sort();
  return [
    models.length > MOST_MODELS ? `${count(models.length, "kind")} of models and data` : models.join(", "),
    `ranked by ${metric.name}, ${metric.goal === "minimize" ? "less" : "more"} is better`,
    `${days.length > 1 ? `${days[0]} to ${days.at(-1)}` : days[0]} (UTC)`,
  ].join(" · ");
}

function warnings() {
  const names = skipped.join(", ") + (numSkipped > skipped.length ? ", ..." : "");
  const left = `${count(numSkipped, "folder")} in the runs folder could not be read as a run: ${names}.`;
  return [...(warning ? [warning] : []), ...(numSkipped ? [left] : [])];
}

function tile(name, figure, more = "") {
  const parts = { name, figure, more };
  const children = Object.entries(parts).map(([className, text]) => element("div", { className }, text));
  return element("div", { className: "tile" }, ...children);
}

// The best of the trials: of one with several seeds, and of final runs, the mean is told and not the luckiest.
function bestTiles() {
  const best = runs[trials[0]];
  if (!best || best.value === null) return [];
  const by = best.keptBy && `, the best by ${best.keptBy}`;
  const kept = `; its kept weights have ${formatMetric(metric.name, best.kept)}, of epoch ${best.keptEpoch}${by}`;
  const where = `${best.name}, epoch ${formatSetting(best.bestEpoch)}${best.kept === null ? "" : kept}`;
  const draws = best.overSeeds ? ["seed", "fold"] : []; // of the trial's first run alone
  const texts = settings.map((setting, k) => [setting.name, settingText(best, k)]);
  const [first, ...others] = texts.filter(([name]) => !draws.includes(name)).map((one) => one.join(" "));
  const told = [formatMetric(metric.name, best.value), where];
  const tiles = [tile(`best ${metric.name}`, ...(best.overSeeds ? overSeeds(best) : told))];
  return first === undefined ? tiles : [...tiles, tile("its settings", first, others.slice(0, 4).join(" · "))];
}

function overSeeds({ name, overSeeds: { mean, deviation, num, over } }) {
  const spread = deviation === null ? "" : `± ${formatMetric(metric.name, deviation)}, `;
  return [formatMetric(metric.name, mean), `${spread}${name}, ${count(num, over)}`];
}

function runsTile() {
  const searched = runs.filter((run) => !run.isFinal);
  const numbers = Object.keys(STATES).map((state) => [searched.filter((run) => run.state === state).length, state]);
  const texts = numbers.filter(([number]) => number).map(([number, state]) => `${number} ${state}`);
  return tile("runs", searched.length.toLocaleString("en"), texts.join(" · "));
}

function timeTiles() {
  const times = runs.map((run) => run.seconds).filter((seconds) => seconds !== null);
  const more = `${formatSeconds(mean(times))} a run, ${count(times.length, "run")}`;
  const withFinals = runs.some((run) => run.isFinal && run.seconds !== null) ? ", final ones too" : "";
  return times.length ? [tile("training time", formatSeconds(sum(times)), more + withFinals)] : [];
}

// The final runs of the best trial that has some: its mean over the seeds is the headline. Which trial is the best,
// validation images tell; where nothing is known of the trials, it is the mean of all.
function finalTiles() {
  const all = runs.filter((run) => run.state === "final");
  const name = tested.find((one) => all.some((run) => finalValue(run, one) !== null));
  const known = all.filter((run) => finalValue(run, name) !== null);
  const ofTrial = (i) => newest(known.filter((run) => run.trial === runs[i].name && run.sweep === runs[i].sweep));
  const byTrial = Object.values(Object.groupBy(known, (run) => `${run.sweep}/${run.trial}`)).map(newest);
  const finals = trials.map(ofTrial).find((some) => some.length) ?? byTrial.flat();
  const values = finals.map((run) => finalValue(run, name));
  if (!values.length) return [];
  const deviation = Math.sqrt(sum(values.map((value) => (value - mean(values)) ** 2)) / Math.max(1, values.length - 1));
  const spread = values.length > 1 ? `± ${formatMetric(name, deviation)}, ` : "";
  const ids = distinct(finals.map((run) => run.trial));
  const more = `${spread}${count(values.length, "run")} by ${ids.length > 1 ? "several trials" : `trial ${ids[0]}`}`;
  return [tile(`final ${name}`, formatMetric(name, mean(values)), more)];
}

// What the weights that a final run has kept have of a metric; null where it has none.
function finalValue(run, name) {
  return (name === metric.name ? run.kept ?? run.value : run.figures[figures.indexOf(name)]) ?? null;
}

// Of a trial's final runs, those that differ in their seed alone, the newest: it may have gone on after earlier ones.
function newest(finals) {
  const last = finals.reduce((one, other) => (other.created > one.created ? other : one), finals[0]);
  const kind = (run) => run.name.replace(/-seed\d+$/, "");
  return finals.filter((run) => kind(run) === kind(last));
}
