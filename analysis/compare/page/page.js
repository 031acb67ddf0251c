// The page: sets up every section and draws it. Drawing again happens when other runs are shown.

import { followLinks } from "./address.js";
import { drawComparer } from "./comparer.js";
import { drawCurves, setUpCurves } from "./curves.js";
import { find } from "./elements.js";
import { followRuns } from "./follow.js";
import { drawFront, setUpFront } from "./front.js";
import { drawHead } from "./head.js";
import { drawImportance, setUpImportance } from "./importance.js";
import { drawIsolation } from "./isolation.js";
import { drawLeaderboard, setUpLeaderboard } from "./leaderboard.js";
import { drawParallel, setUpParallel } from "./parallel.js";
import { drawPictures, setUpPictures } from "./pictures.js";
import { resizeCharts } from "./plot.js";
import { drawProgress, setUpProgress } from "./progress.js";
import { drawRecipes } from "./recipes.js";
import { drawSetting, setUpSetting } from "./setting.js";
import { drawChips, showFirst, toggle } from "./shown.js";

function drawShown() {
  drawLeaderboard();
  drawChips();
  drawCurves();
  drawProgress();
  drawSetting();
  drawFront();
  drawParallel();
  drawComparer();
  drawPictures();
}

// Show a run, or hide it, when its point is clicked.
function toggleOnClick(selector) {
  find(selector).on?.("plotly_click", ({ points: [{ customdata }] }) => customdata !== undefined && toggle(customdata));
}

showFirst(drawShown);
setUpLeaderboard();
setUpCurves();
setUpProgress();
setUpSetting();
setUpPictures();
setUpParallel();
setUpFront();
setUpImportance();
drawShown();
drawImportance();
drawIsolation();
drawRecipes();
drawHead();
["#progress-chart", "#setting-chart", "#front-chart", "#parallel-chart"].forEach(toggleOnClick);
followLinks();
followRuns();
addEventListener("beforeprint", () => resizeCharts(true));
addEventListener("afterprint", () => resizeCharts(false));
document.documentElement.dataset.ready = "true";
