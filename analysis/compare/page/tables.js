// The leaderboard, a page at a time, and the comparer of the shown runs.

const ROWS = 10; // of a page
const BY_NAME = new Intl.Collator("en", { numeric: true });

const COLUMNS = [
  { title: "#", value: (run, i) => i + 1, text: (value) => String(value) },
  { title: "run", value: (run) => run.name, isText: true },
  metricColumn(report.metric.name, (run) => run.value),
  ...(report.sweeps.length > 1 ? [{ title: "sweep", value: (run) => run.sweep, isText: true }] : []),
  { title: "state", value: (run) => run.state, isText: true },
  ...report.figures.map((name, i) => metricColumn(name, (run) => run.figures[i])),
  { title: "epochs", value: (run) => run.epochs, text: (value) => formatSetting(value) },
  { title: "best at", value: (run) => run.bestEpoch, text: (value) => formatSetting(value) },
  { title: "time", value: (run) => run.seconds, text: formatSeconds },
  ...report.settings.map((setting, i) => ({
    title: setting.name, value: (run) => run.settings[i], text: (value) => formatSetting(value, setting.is_log), isText: !setting.is_number,
  })),
  { title: "started", value: (run) => run.created, text: (value) => value.slice(0, 16).replace("T", " "), isText: true },
];

function metricColumn(name, value) {
  return { title: name, value, text: (figure) => formatMetric(name, figure) };
}

const table = { column: null, ascending: true, page: 0, query: "" };

// Places of the runs that are looked for, in the order that is asked for; what a run has not comes last.
function listed() {
  const words = table.query.toLowerCase().split(/\s+/).filter(Boolean);
  const places = runs.map((_, i) => i).filter((i) => {
    const text = COLUMNS.map((column) => `${column.title}=${column.value(runs[i], i)}`).join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  if (table.column === null) return places;
  const { value } = COLUMNS[table.column];
  const has = (x) => x !== null && x !== undefined && x !== "";
  const compare = (x, y) => (typeof x === "number" && typeof y === "number" ? x - y : BY_NAME.compare(String(x), String(y)));
  return places.sort((i, j) => {
    const x = value(runs[i], i), y = value(runs[j], j);
    if (!has(x) || !has(y)) return Number(has(y)) - Number(has(x)) || i - j;
    return (table.ascending ? 1 : -1) * compare(x, y) || i - j;
  });
}

function drawLeaderboard() {
  const places = listed();
  const numPages = Math.max(1, Math.ceil(places.length / ROWS));
  table.page = Math.min(table.page, numPages - 1);
  const head = element("tr", {}, element("th", { className: "text" }, "show"), ...COLUMNS.map((column, number) => {
    const button = element("button", { type: "button", onclick: () => sortBy(number) }, column.title);
    const cell = element("th", { className: column.isText ? "text" : "", scope: "col" }, button);
    if (table.column === number) cell.setAttribute("aria-sort", table.ascending ? "ascending" : "descending");
    return cell;
  }));
  const rows = places.slice(table.page * ROWS, (table.page + 1) * ROWS).map(leaderboardRow);
  find("#runs").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  find("#found").textContent = table.query ? count(places.length, "run") : "";
  find("#page").textContent = `${table.page + 1} of ${numPages}`;
  find("#previous").disabled = table.page === 0;
  find("#next").disabled = table.page === numPages - 1;
  find(".pager").hidden = numPages === 1;
}

function leaderboardRow(i) {
  const run = runs[i];
  const box = element("input", { type: "checkbox", checked: shown.has(i), onchange: () => toggle(i), "aria-label": `show ${run.name}` });
  box.style.setProperty("--run", colourOf(i));
  if (!(i in report.curves)) {
    box.disabled = true;
    box.title = `the curves of the ${Object.keys(report.curves).length} best runs alone are in this page`;
  }
  return element("tr", { "data-run": i }, element("td", { className: "text" }, box), ...COLUMNS.map((column) => {
    const value = column.value(run, i);
    const text = value === null || value === undefined ? NONE : column.text ? column.text(value) : String(value);
    const classes = [column.isText ? "text" : "", column.title === "run" ? "name" : "", column.title === "state" && value === "failed" ? "failed" : ""];
    const cell = element("td", { className: classes.join(" ").trim(), title: typeof value === "number" ? String(value) : text });
    cell.append(column.title === "run" && run.url ? link(run.url, text) : text);
    return cell;
  }));
}

function link(url, text) {
  return element("a", { href: url, target: "_blank", rel: "noopener" }, text);
}

function sortBy(number) {
  table.ascending = table.column === number ? !table.ascending : true;
  table.column = number;
  table.page = 0;
  drawLeaderboard();
}

function turnPage(step) {
  table.page += step;
  drawLeaderboard();
}

function drawComparer() {
  const places = [...shown.keys()].sort((i, j) => i - j);
  const head = element("tr", {}, element("th"), ...places.map((i) => element("th", { title: runs[i].name }, dot(i), " ", runs[i].name)));
  const results = [report.metric.name, ...report.figures, "epochs", "time"];
  const result = (name, i) => {
    if (name === "epochs") return formatSetting(runs[i].epochs);
    if (name === "time") return formatSeconds(runs[i].seconds);
    return formatMetric(name, name === report.metric.name ? runs[i].value : runs[i].figures[report.figures.indexOf(name)]);
  };
  const rows = [groupRow("results", places), ...results.map((name) => comparerRow(name, places, (i) => result(name, i)))];
  const best = places.find((i) => runs[i].value !== null);
  if (best !== undefined && places.length > 1) rows[1].children[places.indexOf(best) + 1].className = "best";
  const same = [];
  for (const [part, title] of [["settings", "settings"], ["environment", "where it ran"]]) {
    const names = [...new Set(places.flatMap((i) => Object.keys(report.details[i][part])))];
    const texts = (name) => places.map((i) => formatSetting(report.details[i][part][name], isLogSetting(name)));
    const differs = names.filter((name) => new Set(places.map((i) => JSON.stringify(report.details[i][part][name]))).size > 1);
    if (differs.length) rows.push(groupRow(title, places));
    for (const name of differs) rows.push(comparerRow(name, places, (i) => texts(name)[places.indexOf(i)]));
    for (const name of names) if (!differs.includes(name)) same.push(`${name}=${texts(name)[0]}`);
  }
  find("#differences").replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  find("#shared").textContent = same.join("  ·  ");
  find("#comparer").hidden = places.length === 0;
}

function comparerRow(name, places, text) {
  return element("tr", {}, element("th", { scope: "row" }, name), ...places.map((i) => element("td", { title: text(i) }, text(i))));
}

function groupRow(title, places) {
  return element("tr", { className: "group" }, element("th", { colSpan: places.length + 1 }, title));
}
