// What the reader has chosen stands in the page's address, behind #: it outlives loading the page again, and a link to
// it shows the same.

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

function write() {
  history.replaceState(null, "", `${location.pathname}${location.search}#${kept}`);
}

// Show what an address names that is followed on this page; a way to a section leaves the choices as they are.
export function followLinks() {
  addEventListener("hashchange", () => isChoice() ? location.reload() : write());
}
