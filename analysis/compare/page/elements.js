// Elements of the page, found and made.

import { keep, keptValues } from "./address.js";

/** @type {(selector: string, within?: ParentNode) => any} */
export const find = (selector, within = document) => within.querySelector(selector);

// Make an element with properties and children; strings become text, never HTML.
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const TAIL = 10; // letters

// Make a text that loses its middle where there is no room for the whole of it, as names differ at their ends.
export function clipped(text) {
  const letters = [...text], cut = Math.max(0, letters.length - TAIL);
  const parts = [letters.slice(0, cut), letters.slice(cut)].map((some) => element("span", {}, some.join("")));
  return element("span", { className: "clipped", title: text }, ...parts);
}

// Give an element other children. The control that has the focus passes it on to its successor: that with its data-key.
export function refill(target, ...children) {
  const { activeElement } = document;
  const key = target.contains(activeElement) && /** @type {HTMLElement} */ (activeElement).dataset.key;
  target.replaceChildren(...children);
  if (key) find(`[data-key="${key}"]`, target)?.focus({ preventScroll: true });
}

// Fill a fieldset with buttons, one of them pressed: that which the address names, else the first. Without any it is
// hidden. `pick` gets the value of the button that is pressed later, or that the address names.
export function choice(name, options, pick) {
  const field = find(`fieldset[data-choice="${name}"]`);
  const buttons = options.map(([value, text]) =>
    element("button", { type: "button", value, onclick: () => press(value), "aria-pressed": "false" }, text)
  );
  const mark = (value) => buttons.forEach((one) => one.setAttribute("aria-pressed", String(one.value === value)));
  const press = (value) => {
    keep(name, [value]);
    mark(value);
    pick(value);
  };
  field.append(...buttons);
  field.hidden = buttons.length === 0;
  const [kept] = keptValues(name).filter((value) => buttons.some((one) => one.value === value));
  mark(kept ?? options[0]?.[0]);
  if (kept !== undefined) pick(kept);
}
