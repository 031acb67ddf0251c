// What all parts of the page share: the data, how figures are written, elements made of text alone.

const report = JSON.parse(document.getElementById("data").textContent);
const runs = report.runs;
const NONE = "–";

const isShare = (name) => /(accuracy|ece|purity)[^/]*$/.test(name);

// Few digits; what has a logarithmic axis is written as 4.5e-5 from further up.
function formatNumber(value, isLog = false) {
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return value.toLocaleString("en");
  const size = Math.abs(value);
  if (size < (isLog ? 1e-2 : 1e-3) || size >= 1e7) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(Number(value.toPrecision(4)));
}

function formatMetric(name, value) {
  if (value === null || value === undefined) return NONE;
  if (isShare(name)) return `${(100 * value).toFixed(2)} %`;
  return Math.abs(value) >= 1e-2 && Math.abs(value) < 1e5 ? value.toFixed(Math.abs(value) < 100 ? 4 : 1) : formatNumber(value, true);
}

function formatSetting(value, isLog = false) {
  if (value === null || value === undefined) return NONE;
  return typeof value === "number" ? formatNumber(value, isLog) : value === "" ? "“”" : String(value);
}

function formatSeconds(seconds) {
  if (seconds === null) return NONE;
  const minutes = Math.floor(Math.round(seconds) / 60);
  if (minutes >= 60) return `${Math.floor(minutes / 60)}h${String(minutes % 60).padStart(2, "0")}m`;
  return minutes ? `${minutes}m${String(Math.round(seconds) % 60).padStart(2, "0")}s` : `${seconds.toFixed(seconds < 10 ? 1 : 0)}s`;
}

const isLogSetting = (name) => report.settings.some((setting) => setting.name === name && setting.is_log);
const settingText = (run, k) => formatSetting(run.settings[k], report.settings[k].is_log);

const count = (number, noun) => `${number.toLocaleString("en")} ${noun}${number === 1 ? "" : "s"}`;

// Plotly reads some HTML in its texts: names have none.
function plotText(text) {
  return String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s+/g, " ");
}

// An element with properties and children; strings become text, never HTML.
function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const find = (selector, within = document) => within.querySelector(selector);

// Buttons of which one is pressed; `pick` is told the value of the one that is.
function choice(name, options, pick) {
  const field = find(`fieldset[data-choice="${name}"]`);
  const press = (value) => {
    for (const button of field.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.value === value));
    pick(value);
  };
  for (const [value, text] of options) {
    field.append(element("button", { type: "button", value, onclick: () => press(value), "aria-pressed": "false" }, text));
  }
  find("button", field)?.setAttribute("aria-pressed", "true");
}
