// What the reader has chosen stands in the page's address, behind #: it outlives loading the page again, and a link to
// it shows the same.

const OURS = "choices"; // the state of an address that the page has written itself
const kept = new URLSearchParams(isChoice() ? location.hash.slice(1) : "");

// Whether the address names choices; else it leads to a section, or nowhere.
function isChoice() {
  return location.hash.includes("=");
}

// Return the values that are kept under a name.
export const keptValues = (name) => kept.getAll(name);

// Keep values, in place of those that were kept under that name.
export function keep(name, values) {
  kept.delete(name);
  for (const value of values) kept.append(name, value);
  write();
}

// Write the choices into the address. Where that is forbidden, as in some previews of files, the page works without.
function write() {
  try {
    history.replaceState(OURS, "", `${location.href.split("#")[0]}#${kept}`);
  } catch (error) {
    if (!(error instanceof DOMException)) throw error;
  }
}

// Show what an address names that is followed on this page. A way to a section, and the way back, leave the choices.
export function followLinks() {
  if (isChoice()) write();
  addEventListener("hashchange", () => isChoice() && history.state !== OURS ? location.reload() : write());
}
