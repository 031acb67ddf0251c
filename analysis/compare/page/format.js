// How numbers, metrics, settings and times are written.

import { isPercentage, settings } from "./report.js";

export const NONE = "–";
export const BY_NAME = new Intl.Collator("en", { numeric: true }); // compares names by the numbers within them

// Write a whole number, of five digits or more in groups of three: a seed of four, or a year, reads better without.
const formatWhole = (value) => value.toLocaleString("en", { useGrouping: "min2" });

// Write a number with few digits. On a logarithmic axis (`isLog`) 0.0045 is already written as 4.5e-3.
export function formatNumber(value, isLog = false) {
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return formatWhole(value);
  const size = Math.abs(value);
  if (size >= (isLog ? 1e-2 : 1e-3) && size < 1e7) return String(Number(value.toPrecision(4)));
  return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
}

// Write a value of a metric with as many digits as `shown` of data/metrics.py, for the terminal.
export function formatMetric(name, value) {
  if (value === null || value === undefined) return NONE;
  if (isPercentage(name)) return `${(100 * value).toFixed(2)} %`;
  const size = Math.abs(value);
  if (size >= 10 && size < 1e5) return value.toFixed(2);
  return size === 0 || (size >= 1e-3 && size < 10) ? value.toFixed(4) : value.toExponential(3).replace("e+", "e");
}

export function formatSetting(value, isLog = false) {
  if (value === null || value === undefined) return NONE;
  if (Number.isSafeInteger(value)) return formatWhole(value); // a seed has ten digits
  if (typeof value === "number") return formatNumber(value, isLog);
  return value === "" ? "“”" : String(value);
}

// Write at most so many letters of a text: of a longer one the middle is left out, as names differ at their ends.
export function shortened(text, most) {
  const letters = [...text], tail = Math.floor((most - 1) / 2);
  return letters.length <= most
    ? text
    : `${letters.slice(0, most - 1 - tail).join("")}…${letters.slice(-tail).join("")}`;
}

// Shorten texts so that they still differ: those that would look alike lose the words that they all begin with.
export function shortenedApart(texts, most) {
  const groups = Map.groupBy(new Set(texts), (text) => shortened(text, most));
  return texts.map((text) => {
    const common = commonBeginning(groups.get(shortened(text, most)));
    return shortened(common ? `…${text.slice(common.length)}` : text, most);
  });
}

// Return the words that several texts begin with; "" for a single text.
function commonBeginning(texts) {
  const [first, ...others] = texts;
  let length = 0;
  while (length < first.length && others.every((other) => other[length] === first[length])) length += 1;
  return others.length ? first.slice(0, length).replace(/[^_/.\-\s]*$/, "") : "";
}

export function formatSeconds(seconds) {
  if (seconds === null) return NONE;
  const whole = Math.round(seconds), minutes = Math.floor(whole / 60);
  const padded = (number) => String(number % 60).padStart(2, "0");
  if (minutes >= 60) return `${Math.floor(minutes / 60)}h${padded(minutes)}m`;
  return minutes ? `${minutes}m${padded(whole)}s` : `${seconds.toFixed(seconds < 10 ? 1 : 0)}s`;
}

// Return the unit in which the time axis of a chart is easiest to read: its name and its seconds.
export function timeUnit(longest) {
  const units = [{ name: "hours", seconds: 3600 }, { name: "minutes", seconds: 60 }, { name: "seconds", seconds: 1 }];
  return units.find((unit) => longest >= 2 * unit.seconds) ?? units.at(-1);
}

export const isLogSetting = (name) => settings.some((setting) => setting.name === name && setting.is_log);

// Write the k-th setting of a run.
export const settingText = (run, k) => formatSetting(run.settings[k], settings[k].is_log);

export const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;
