// Colours of runs and sweeps in the charts; style.css has those of the page.

export const COLOURS = [
  "#4c78d8",
  "#e8743b",
  "#2a9d8f",
  "#b05cc6",
  "#c99a1b",
  "#d6455d",
  "#5b9a3d",
  "#8c6d5a",
  "#3aa6c9",
  "#e07bb0",
];
export const ACCENT = COLOURS[0];
export const GREY = "#8d98ab"; // of runs that are not shown
