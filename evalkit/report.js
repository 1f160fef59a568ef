"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  function template() {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), line = style.getPropertyValue("--line").trim();
    const axis = {gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line};
    return {layout: {
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: ink},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false,
      xaxis: axis, yaxis: axis, hoverlabel: {align: "left"},
      polar: {bgcolor: "rgba(0,0,0,0)", radialaxis: axis, angularaxis: axis},
    }};
  }

  function draw() {
    const look = template();
    for (const place of document.querySelectorAll(".plot")) {
      const {data, layout} = figures[place.dataset.figure];
      Plotly.react(place, data, {...layout, template: look}, {displayModeBar: false});
    }
  }

  function play(on) {
    for (const video of document.querySelectorAll("video")) on ? video.play().catch(() => {}) : video.pause();
    const button = document.getElementById("motion");
    if (!button) return;
    button.textContent = on ? "Pause all videos" : "Play all videos";
    button.onclick = () => play(!on);
  }

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.tagName === "DETAILS") target.open = true;
  }

  draw();
  const sizes = new ResizeObserver((changes) => { for (const {target} of changes) Plotly.Plots.resize(target); });
  for (const place of document.querySelectorAll(".plot")) sizes.observe(place);
  play(!calm.matches);
  reveal();
  dark.addEventListener("change", draw);
  addEventListener("hashchange", reveal);
})();
