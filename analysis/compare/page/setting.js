// One setting against the metric, a point for each run.

import { keep, keptValues } from "./address.js";
import { element, find } from "./elements.js";
import { BY_NAME, formatSetting } from "./format.js";
import { markedRuns, runMarkers, stateKey } from "./markers.js";
import { logAxis, nameAxis, plot, plotText, valueAxis } from "./plot.js";
import { edges, runs, settings } from "./report.js";

const chosen = { setting: 0 };

export function setUpSetting() {
  const names = settings.map((setting) => setting.name), list = find("#setting-name");
  list.append(...names.map((name, k) => element("option", { value: k }, name)));
  chosen.setting = Math.max(0, names.indexOf(keptValues("setting")[0]));
  list.value = String(chosen.setting);
  find("#setting .remark").textContent = `Searched enough? ${edges.join(". ")}.`;
  find("#setting .remark").hidden = edges.length === 0;
  list.onchange = () => {
    chosen.setting = Number(list.value);
    keep("setting", [names[chosen.setting]]);
    drawSetting();
  };
}

// Return the names that a setting takes in some runs, sorted, with the numbers within them in their order.
export function namesOf(k, places = [...runs.keys()]) {
  return [...new Set(places.map((i) => formatSetting(runs[i].settings[k])))].sort(BY_NAME.compare);
}

export function drawSetting() {
  find("#setting").hidden = settings.length === 0;
  if (!settings.length) return;
  const k = chosen.setting;
  const places = markedRuns().filter((i) => !settings[k].is_number || runs[i].settings[k] !== null);
  const { axis, x } = settings[k].is_number ? numberAxis(k, places) : spreadNames(k, places);
  find("#setting .key").textContent = `${stateKey(places)}\nShown runs are coloured. Click a point to show its run.`;
  plot(find("#setting-chart"), [runMarkers(places, x, places.map((i) => runs[i].value))], {
    xaxis: { title: { text: plotText(settings[k].name) }, ...axis },
    yaxis: valueAxis(),
  });
}

function numberAxis(k, places) {
  const x = places.map((i) => runs[i].settings[k]);
  return { axis: settings[k].is_log ? logAxis(x) : {}, x };
}

// Spread names evenly, and the runs of one name a little to its left and right.
function spreadNames(k, places) {
  const names = namesOf(k);
  const jitter = (i) => ((i * 7) % 11 - 5) * 0.03;
  return { axis: nameAxis(names), x: places.map((i) => names.indexOf(formatSetting(runs[i].settings[k])) + jitter(i)) };
}
