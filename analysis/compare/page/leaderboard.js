// The leaderboard: all runs, a page at a time, sorted and searched.

import { keep, keptValues } from "./address.js";
import { clipped, element, find, refill } from "./elements.js";
import { BY_NAME, count, formatMetric, formatSeconds, formatSetting, NONE } from "./format.js";
import { figures, metric, numMoreSettings, runs, settings, showable, sweeps } from "./report.js";
import { colourOf, isShown, toggle } from "./shown.js";

const ROWS = 10; // of a page

// A column: its title, the value of a run, how a value is written, whether it is text and so stands on the left.
const COLUMNS = [
  { title: "#", value: (_run, i) => i + 1 },
  { title: "run", value: (run) => run.name, isText: true },
  metricColumn(metric.name, (run) => run.value),
  ...(runs.some((run) => run.kept !== null) ? [keptColumn()] : []),
  ...(sweeps.length > 1 ? [{ title: "sweep", value: (run) => run.sweep, isText: true }] : []),
  { title: "state", value: (run) => run.state, isText: true },
  ...figureColumns((name) => !name.startsWith("test/")),
  { title: "epochs", value: (run) => run.epochs, text: formatSetting },
  { title: "best at", value: (run) => run.bestEpoch, text: formatSetting },
  { title: "time", value: (run) => run.seconds, text: formatSeconds },
  ...settings.map(settingColumn),
  ...figureColumns((name) => name.startsWith("test/")), // behind the settings, as final runs alone have them
  { title: "started (UTC)", value: (run) => run.created, text: startText, isText: true },
];

// Write the minute of a run's start; the day stands at the top of the page if it is the same for all runs.
function startText(created) {
  const isOneDay = runs.every((run) => run.created.slice(0, 10) === runs[0].created.slice(0, 10));
  return isOneDay ? created.slice(11, 16) : created.slice(0, 16).replace("T", " ");
}

function metricColumn(title, value, name = title) {
  return { title, value, text: (figure) => formatMetric(name, figure) };
}

// What the weights that each run has kept have, where that is not the best that it has logged.
function keptColumn() {
  return metricColumn("of kept weights", (run) => run.kept ?? run.value, metric.name);
}

function figureColumns(isWanted) {
  const columns = figures.map((name, k) => metricColumn(name, (run) => run.figures[k]));
  return columns.filter((column) => isWanted(column.title));
}

function settingColumn({ name, is_log: isLog, is_number: isNumber }, k) {
  return {
    title: name,
    value: (run) => run.settings[k],
    text: (value) => formatSetting(value, isLog),
    isText: !isNumber,
    isSetting: true,
  };
}

const textsOfRows = []; // what is searched of each run
const table = { column: null, ascending: true, page: 0, query: "" };

export function setUpLeaderboard() {
  const most = `The ${settings.length} settings that vary most have a column here; all that differ are compared below.`;
  find("#more-settings").textContent = numMoreSettings ? most : "";
  restore();
  find("#search").oninput = (event) => search(event.target.value);
  find("#previous").onclick = () => change({ page: table.page - 1 });
  find("#next").onclick = () => change({ page: table.page + 1 });
}

// Return the name of a column in the address: a setting may be called as another column is.
function keyOf({ title, isSetting }) {
  return isSetting ? `setting ${title}` : title;
}

// Take the order and the search that the address names.
function restore() {
  const [key, direction] = keptValues("sort"), [query = ""] = keptValues("search");
  const column = COLUMNS.findIndex((one) => keyOf(one) === key);
  if (column >= 0) Object.assign(table, { column, ascending: direction !== "down" });
  find("#search").value = table.query = query;
}

function search(query) {
  keep("search", query ? [query] : []);
  change({ query, page: 0 });
}

function change(parts) {
  Object.assign(table, parts);
  drawLeaderboard();
}

function sortBy(column) {
  const ascending = table.column === column ? !table.ascending : true;
  keep("sort", [keyOf(COLUMNS[column]), ascending ? "up" : "down"]);
  change({ column, ascending, page: 0 });
}

export function drawLeaderboard() {
  const places = sorted(runs.map((_, i) => i).filter(isFound));
  const numPages = Math.max(1, Math.ceil(places.length / ROWS));
  table.page = Math.min(table.page, numPages - 1);
  const head = element("tr", {}, element("th", { className: "text" }, "show"), ...COLUMNS.map(headCell));
  const rows = places.slice(table.page * ROWS, (table.page + 1) * ROWS).map(row);
  refill(find("#runs"), element("thead", {}, head), element("tbody", {}, ...rows));
  find("#found").textContent = table.query ? count(places.length, "run") : "";
  find("#page").textContent = `${table.page + 1} of ${numPages}`;
  find("#previous").disabled = table.page === 0;
  find("#next").disabled = table.page === numPages - 1;
  find(".pager").hidden = numPages === 1;
}

// Whether every word that is looked for stands somewhere in a run's row, as it is written there or in full.
function isFound(i) {
  const words = table.query.toLowerCase().split(/\s+/).filter(Boolean);
  return words.every((word) => (textsOfRows[i] ??= textOfRow(i)).includes(word));
}

function textOfRow(i) {
  const values = COLUMNS.map((column) => [column.title, column.value(runs[i], i), textOf(column, i)]);
  return values.map(([title, value, text]) => `${title}=${value} ${title}=${text}`).join(" ").toLowerCase();
}

function textOf(column, i) {
  const value = column.value(runs[i], i);
  return value === null || value === undefined ? NONE : (column.text ?? String)(value);
}

// Sort runs by the chosen column; those without a value come last in either direction.
function sorted(places) {
  if (table.column === null) return places;
  const values = new Map(places.map((i) => [i, COLUMNS[table.column].value(runs[i], i)]));
  const has = (i) => ![null, undefined, ""].includes(values.get(i));
  const direction = table.ascending ? 1 : -1;
  return places.sort((i, j) => {
    if (!has(i) || !has(j)) return Number(has(j)) - Number(has(i)) || i - j;
    return direction * compare(values.get(i), values.get(j)) || i - j;
  });
}

function compare(x, y) {
  return typeof x === "number" && typeof y === "number" ? x - y : BY_NAME.compare(String(x), String(y));
}

function headCell(column, number) {
  const properties = { type: "button", onclick: () => sortBy(number), "data-key": `column ${number}` };
  const button = element("button", properties, clipped(column.title));
  const cell = element("th", { className: column.isText ? "text" : "", scope: "col" }, button);
  if (table.column === number) cell.setAttribute("aria-sort", table.ascending ? "ascending" : "descending");
  return cell;
}

function row(i) {
  const cells = COLUMNS.map((column) => bodyCell(column, i));
  return element("tr", { "data-run": i }, element("td", { className: "text" }, box(i)), ...cells);
}

function box(i) {
  const isAbsent = !showable.includes(i);
  const made = element("input", {
    type: "checkbox",
    checked: isShown(i),
    disabled: isAbsent,
    onchange: () => toggle(i),
    title: isAbsent ? `This page holds the curves of ${showable.length} runs only, and not of this one.` : "",
    "aria-label": `show ${runs[i].name}`,
    "data-key": `run ${i}`,
  });
  made.style.setProperty("--run", colourOf(i));
  return made;
}

function bodyCell(column, i) {
  const run = runs[i], value = column.value(run, i), text = textOf(column, i);
  const classes = {
    text: column.isText,
    failed: column.title === "state" && value === "failed",
  };
  const cell = element("td", {
    className: Object.keys(classes).filter((name) => classes[name]).join(" "),
    title: typeof value === "number" ? String(value) : column.title === "state" && run.error ? run.error : text,
  });
  const told = column.isText ? clipped(text) : text;
  cell.append(column.title === "run" && run.url ? link(run.url, told) : told);
  return cell;
}

function link(url, told) {
  return element("a", { href: url, target: "_blank", rel: "noopener" }, told);
}
