// A page that `python -m analysis.report --serve` serves asks whether the runs have gone on since, and says so.

import { find } from "./elements.js";

const SECONDS = 10; // between two questions

export function followRuns() {
  const { stamp } = document.documentElement.dataset, button = find("#gone-on");
  if (!stamp) return;
  button.onclick = () => location.reload();
  setInterval(async () => {
    if (!document.hidden && button.hidden) button.hidden = [stamp, null].includes(await currentStamp());
  }, 1000 * SECONDS);
}

// Return the stamp of the runs as they are now; null where the server does not tell it, or is gone.
async function currentStamp() {
  try {
    return (await fetch(location.pathname, { method: "HEAD" })).headers.get("ETag");
  } catch {
    return null;
  }
}
