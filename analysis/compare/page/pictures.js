// Pictures of the shown runs side by side: those of one kind at a time.

import { choice, element, find } from "./elements.js";
import { count, formatMetric } from "./format.js";
import { metric, pictures, runs } from "./report.js";
import { dot, shownRuns } from "./shown.js";

const kinds = Object.keys(pictures);
const chosen = { kind: kinds[0] };

export function setUpPictures() {
  choice("picture", kinds.map((kind) => [kind, kind.replaceAll("_", " ")]), (kind) => {
    chosen.kind = kind;
    drawPictures();
  });
  find("#zoom").onclick = () => find("#zoom").close();
}

export function drawPictures() {
  const section = find("#pictures");
  section.hidden = kinds.length === 0;
  if (section.hidden) return;
  const found = pictures[chosen.kind];
  const places = shownRuns().filter((i) => i in found);
  const numLacking = shownRuns().length - places.length;
  const note = find(".key", section);
  note.textContent = `This page holds no such picture of ${count(numLacking, "shown run")}.`;
  note.hidden = numLacking === 0;
  find(".grid", section).replaceChildren(...places.map((i) => figure(i, found[i])));
}

function figure(i, { epoch, uri }) {
  const value = formatMetric(metric.name, runs[i].value);
  const caption = `${runs[i].name}  ${value}${epoch ? `, epoch ${epoch}` : ""}`;
  const image = element("img", {
    src: uri,
    alt: `${chosen.kind} of ${runs[i].name}`,
    role: "button",
    tabIndex: 0,
    onclick: () => enlarge(uri, caption),
    onkeydown: (event) => {
      if (!["Enter", " "].includes(event.key)) return;
      event.preventDefault(); // the space bar would scroll the page
      enlarge(uri, caption);
    },
  });
  return element("figure", {}, element("figcaption", {}, dot(i), " ", caption), image);
}

function enlarge(uri, caption) {
  find("#zoom img").src = uri;
  find("#zoom img").alt = caption;
  find("#zoom p").textContent = caption;
  find("#zoom").showModal();
}
