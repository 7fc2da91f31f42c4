"use strict";
// Draws every figure from the JSON beside it, in the colors of the page, and again when those change.
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const themed = () => ({
  paper_bgcolor: color("--paper"),
  plot_bgcolor: color("--paper"),
  "font.color": color("--ink"),
});
const config = (name) => ({
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  showEditInChartStudio: false,
  plotlyServerURL: "",
  modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  toImageButtonOptions: { format: "svg", filename: name },
});
const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const figure = JSON.parse(plot.nextElementSibling.textContent);
  const { "font.color": ink, ...papers } = themed();
  Object.assign(figure.layout, papers);
  Object.assign(figure.layout.font, { color: ink, family: getComputedStyle(document.body).fontFamily });
  // A finger that draws a zoom box cannot scroll the page.
  figure.layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  Plotly.newPlot(plot, figure.data, figure.layout, config(plot.dataset.name));
}
for (const box of document.querySelectorAll("input.log")) {
  const plot = box.closest("figure").querySelector(".plot");
  box.addEventListener("change", () => {
    const type = box.checked ? "log" : "linear";
    const ticks = box.checked ? "array" : "auto";
    Plotly.relayout(plot, { "yaxis.type": type, "yaxis.range": [...plot.layout.meta[type]], "yaxis.tickmode": ticks });
  });
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of plots) Plotly.relayout(plot, themed());
});
