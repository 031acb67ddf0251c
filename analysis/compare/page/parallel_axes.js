// The axes of parallel coordinates: {name, height of a run from 0 to 1, ticks as [height, text] or, of a name, [height,
// text, whole name]}.

import { formatNumber, formatSetting, NONE, shortenedApart } from "./format.js";
import { logAxis, multiples, needsLog } from "./plot.js";
import { isPercentage, metric, runs, settings } from "./report.js";
import { namesOf } from "./setting.js";

const BELOW = -0.07; // height at which runs that lack a setting cross its axis
const MOST_TICKS = 12;
const MOST_LETTERS = 14; // of a tick

// Return an axis for each of some settings, by their places, and one for the metric, as some runs need them.
export function parallelAxes(places, some) {
  const axisOf = (k) => (settings[k].is_number ? axisOfNumbers(places, k) : axisOfNames(places, k));
  return [...some.map(axisOf), axisOfMetric(places)];
}

function axisOfNames(places, k) {
  const names = namesOf(k, places);
  const short = shortenedApart(names, MOST_LETTERS);
  const every = Math.ceil(names.length / MOST_TICKS);
  const at = (n) => (names.length === 1 ? 0.5 : n / (names.length - 1));
  return {
    name: settings[k].name,
    height: (run) => at(names.indexOf(formatSetting(run.settings[k]))),
    ticks: names.map((name, n) => [at(n), short[n], name]).filter((_, n) => n % every === 0),
  };
}

function axisOfNumbers(places, k) {
  const { name, is_log: isLog } = settings[k];
  const values = places.map((i) => runs[i].settings[k]).filter((value) => value !== null);
  const { at, ticks } = scale(values, isLog, (value) => formatNumber(value, isLog));
  const lacking = values.length < places.length ? [[BELOW, NONE]] : [];
  const height = (run) => (run.settings[k] === null ? BELOW : at(run.settings[k]));
  return { name, height, ticks: [...ticks, ...lacking] };
}

function axisOfMetric(places) {
  const values = places.map((i) => runs[i].value);
  const percent = (value) => `${formatNumber(100 * value)} %`;
  const { at, ticks } = scale(
    values,
    needsLog(metric.name, values),
    isPercentage(metric.name) ? percent : formatNumber,
  );
  return { name: metric.name, height: (run) => at(run.value), ticks };
}

// Spread values from the least at 0 to the greatest at 1, with ticks at round ones.
function scale(values, isLog, format) {
  const low = Math.min(...values), high = Math.max(...values);
  const warp = isLog ? Math.log : (value) => value;
  const at = (value) => (high > low ? (warp(value) - warp(low)) / (warp(high) - warp(low)) : 0.5);
  const inside = roundValues(values, isLog).filter((value) => value >= low && value <= high);
  return { at, ticks: inside.map((value) => [at(value), format(value)]) };
}

function roundValues(values, isLog) {
  const distinct = [...new Set(values)];
  if (distinct.length <= 6 && distinct.every(Number.isInteger)) return distinct;
  const low = Math.min(...values), high = Math.max(...values);
  return isLog ? logAxis([low, high]).tickvals : multiples(low, high);
}
