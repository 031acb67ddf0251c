// What the reader has chosen stands in the page's address, behind #: it outlives loading the page again, and a link to
// it shows the same.

const kept = new URLSearchParams(location.hash.slice(1));

// Return the values that are kept under a name.
export const keptValues = (name) => kept.getAll(name);

// Keep values, in place of those that were kept under that name.
export function keep(name, values) {
  kept.delete(name);
  for (const value of values) kept.append(name, value);
  history.replaceState(null, "", `${location.pathname}${location.search}#${kept}`);
}

// A link to another choice on this page, opened in its tab.
export const followLinks = () => addEventListener("hashchange", () => location.reload());
