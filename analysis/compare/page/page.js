// The page as a whole: which runs are shown, tiles, chips, pictures; puts everything in place.

const COLOURS = ["#4c78d8", "#e8743b", "#2a9d8f", "#b05cc6", "#c99a1b", "#d6455d", "#5b9a3d", "#8c6d5a", "#3aa6c9", "#e07bb0"];
const NUM_SHOWN = 5; // at first
const shown = new Map(); // place of a run -> its colour

function colourOf(i) {
  return shown.get(i) ?? PLAIN;
}

function show(i) {
  const taken = [...shown.values()];
  shown.set(i, COLOURS.find((colour) => !taken.includes(colour)) ?? COLOURS[shown.size % COLOURS.length]);
}

function toggle(i) {
  if (!(i in report.curves)) return;
  if (!shown.delete(i)) show(i);
  drawShown();
}

function drawShown() {
  drawLeaderboard();
  drawChips();
  drawCurves();
  drawProgress();
  drawSetting();
  drawParallel();
  drawComparer();
  drawPictures();
}

function dot(i) {
  const made = element("span", { className: "dot" });
  made.style.setProperty("--run", colourOf(i));
  return made;
}

function drawChips() {
  const chips = Object.keys(report.curves).map(Number).map((i) => {
    const text = `${runs[i].name}  ${formatMetric(report.metric.name, runs[i].value)}`;
    const chip = element("button", { type: "button", className: "chip", onclick: () => toggle(i), title: text, "data-run": i }, dot(i),
      element("span", { className: "what" }, text));
    chip.setAttribute("aria-pressed", String(shown.has(i)));
    chip.style.setProperty("--run", colourOf(i));
    return chip;
  });
  const bar = find("#chosen"), { scrollLeft } = bar;
  bar.replaceChildren(...chips);
  bar.scrollLeft = scrollLeft;
}

function tile(name, figure, more = "") {
  return element("div", { className: "tile" }, element("div", { className: "name" }, name), element("div", { className: "figure" }, figure),
    element("div", { className: "more" }, more));
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function drawTiles() {
  const tiles = [];
  const metric = report.metric.name;
  const [best] = ranked;
  const searched = runs.filter((run) => run.state !== "final");
  if (best !== undefined) {
    const settings = report.settings.map((one, k) => `${one.name} ${settingText(runs[best], k)}`);
    tiles.push(tile(`best ${metric}`, formatMetric(metric, runs[best].value), `${runs[best].name}, epoch ${formatSetting(runs[best].bestEpoch)}`));
    if (settings.length) tiles.push(tile("its settings", settings[0], settings.slice(1, 5).join(" · ")));
  }
  const states = Object.keys(STATES).map((state) => [searched.filter((run) => run.state === state).length, state]);
  tiles.push(tile("runs", searched.length.toLocaleString("en"), states.filter(([number]) => number).map(([number, state]) => `${number} ${state}`).join(" · ")));
  const times = runs.map((run) => run.seconds).filter((seconds) => seconds !== null);
  if (times.length) tiles.push(tile("time of training", formatSeconds(times.reduce((a, b) => a + b, 0)), `${formatSeconds(mean(times))} a run`));
  const place = report.figures.indexOf("test/accuracy") < 0 ? report.figures.indexOf("test/loss") : report.figures.indexOf("test/accuracy");
  const finals = runs.filter((run) => run.state === "final" && place >= 0 && run.figures[place] !== null).map((run) => run.figures[place]);
  if (finals.length) {
    const name = report.figures[place];
    const deviation = Math.sqrt(finals.reduce((sum, value) => sum + (value - mean(finals)) ** 2, 0) / Math.max(1, finals.length - 1));
    tiles.push(tile(`${name} of the final runs`, formatMetric(name, mean(finals)), finals.length > 1 ? `± ${formatMetric(name, deviation)}, ${count(finals.length, "run")}` : "1 run"));
  }
  find("#tiles").replaceChildren(...tiles);
}

function drawHead() {
  const metric = report.metric;
  const days = [...new Set(runs.map((run) => run.created.slice(0, 10)))].sort();
  const models = [...new Set(runs.map((run) => run.model))];
  find("#subtitle").textContent = [models.length > 3 ? count(models.length, "kind") + " of models and data" : models.join(", "),
    `ranked by ${metric.name}, ${metric.is_minimized ? "less" : "more"} is better`, days.length > 1 ? `${days[0]} to ${days.at(-1)}` : days[0]].join(" · ");
  const warnings = [];
  if (models.length > 1) warnings.push("These are runs of several models or datasets: their values need not be comparable.");
  if (report.numSkipped) warnings.push(`${count(report.numSkipped, "folder")} held no run that could be read.`);
  find("#warning").textContent = warnings.join(" ");
  find("#warning").hidden = warnings.length === 0;
  find("nav").append(...[...document.querySelectorAll("section")].filter((section) => !section.hidden)
    .map((section) => element("a", { href: `#${section.id}` }, section.dataset.title)));
}

const picture = { name: Object.keys(report.pictures)[0] };

function drawPictures() {
  const section = find("#pictures");
  section.hidden = picture.name === undefined;
  if (section.hidden) return;
  const found = report.pictures[picture.name];
  const places = [...shown.keys()].sort((i, j) => i - j).filter((i) => i in found);
  const lacking = [...shown.keys()].length - places.length;
  const note = find(".key", section);
  note.textContent = `${count(lacking, "shown run")} without this picture in the page.`;
  note.hidden = lacking === 0;
  find(".grid", section).replaceChildren(...places.map((i) => {
    const { epoch, uri } = found[i];
    const caption = `${runs[i].name}  ${formatMetric(report.metric.name, runs[i].value)}${epoch ? `, epoch ${epoch}` : ""}`;
    const image = element("img", { src: uri, alt: `${picture.name} of ${runs[i].name}`, tabIndex: 0, onclick: () => enlarge(uri, caption),
      onkeydown: (event) => event.key === "Enter" && enlarge(uri, caption) });
    return element("figure", {}, element("figcaption", {}, dot(i), " ", caption), image);
  }));
}

function enlarge(uri, caption) {
  find("#zoom img").src = uri;
  find("#zoom img").alt = caption;
  find("#zoom p").textContent = caption;
  find("#zoom").showModal();
}

// Paper is narrower than the window: charts are drawn anew for it, and again for the window afterwards.
const PAPER_PIXELS = 700;
function resizeCharts(isPaper) {
  for (const chart of document.querySelectorAll(".js-plotly-plot")) {
    const width = chart.closest("#curves, .pair") ? PAPER_PIXELS / 2 - 10 : PAPER_PIXELS;
    Plotly.relayout(chart, isPaper ? { width, autosize: false } : { width: undefined, autosize: true });
  }
}

const WAYS_TO_CLICK = ["#progress-chart", "#setting-chart", "#parallel-chart"];

ranked.filter((i) => i in report.curves).slice(0, NUM_SHOWN).forEach(show);
if (!shown.size) Object.keys(report.curves).slice(0, NUM_SHOWN).map(Number).forEach(show);
choice("curves-x", [["epoch", "epochs"], ["seconds", "time"]], (value) => { curves.x = value; drawCurves(); });
choice("curves-y", [["linear", "linear"], ["log", "log"]], (value) => { curves.y = value; drawCurves(); });
choice("progress-x", [["number", "runs"], ["ended", "time"]], (value) => { progress.x = value; drawProgress(); });
choice("picture", Object.keys(report.pictures).map((name) => [name, name.replaceAll("_", " ")]), (value) => { picture.name = value; drawPictures(); });
find("#setting-name").append(...report.settings.map((one, k) => element("option", { value: k }, one.name)));
find("#setting-name").onchange = (event) => { setting.place = Number(event.target.value); drawSetting(); };
find("#search").oninput = (event) => { table.query = event.target.value; table.page = 0; drawLeaderboard(); };
find("#previous").onclick = () => turnPage(-1);
find("#next").onclick = () => turnPage(1);
find("#zoom").onclick = () => find("#zoom").close();
drawTiles();
drawShown();
drawImportance();
drawHead();
for (const selector of WAYS_TO_CLICK) find(selector).on?.("plotly_click", (event) => event.points[0].customdata !== undefined && toggle(event.points[0].customdata));
addEventListener("beforeprint", () => resizeCharts(true));
addEventListener("afterprint", () => resizeCharts(false));
document.documentElement.dataset.ready = "true";
