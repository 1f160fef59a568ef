"use strict";
/* Plotly figures that follow the theme, are drawn when they come into sight, and fit their place. */
const Plots = (() => {
  const {el, format, interval, score, BLUE, ORANGE, GREY} = Site;
  const drawn = new Map();  // place -> its figure

  /** Text where plotly reads markup and %{templates}. */
  function plain(text) {
    return String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
      .replaceAll("%{", "%&#8203;{");
  }
  const short = (text, longest = 90) => plain(text.length > longest ? `${text.slice(0, longest)}…` : text);

  function template() {
    const probe = document.body.appendChild(el("span"));
    const colour = (name) => { probe.style.color = `var(${name})`; return getComputedStyle(probe).color; };
    const ink = colour("--ink"), line = colour("--line"), card = colour("--card");
    probe.remove();
    const axis = {gridcolor: line, linecolor: line, zerolinecolor: line, tickcolor: line, automargin: true};
    return {layout: {
      font: {family: getComputedStyle(document.body).fontFamily, size: 12, color: ink},
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: false, xaxis: axis, yaxis: axis,
      hoverlabel: {align: "left", bgcolor: card, bordercolor: line, font: {color: ink}},
      polar: {bgcolor: "rgba(0,0,0,0)", radialaxis: axis, angularaxis: axis},
    }};
  }

  function draw(place) {
    const {data, layout, click} = drawn.get(place);
    Plotly.react(place, data, {margin: {l: 50, r: 14, t: 10, b: 44}, ...layout, template: template()},
      {displayModeBar: false, responsive: true}).then(() => {
      place.removeAllListeners?.("plotly_click");
      if (click) place.on("plotly_click", click);
    });
  }

  let loading = null;
  /** plotly's 5 MB, when the first figure comes into sight: tables do not wait for them. */
  function loaded() {
    loading ??= new Promise((resolve) => document.head.append(el("script", {src: "assets/plotly.js", onload: resolve})));
    return loading;
  }

  const sight = new IntersectionObserver(async (entries) => {
    if (entries.some(({isIntersecting}) => isIntersecting)) await loaded();
    for (const {isIntersecting, target} of entries) {
      if (!isIntersecting) continue;
      sight.unobserve(target);
      draw(target);
    }
  }, {rootMargin: "300px"});
  addEventListener("theme", () => {
    for (const place of drawn.keys()) if (!place.isConnected) drawn.delete(place);
      else if (place.classList.contains("js-plotly-plot")) draw(place);
  });

  /** A figure with its caption. `label` is what a screen reader says. */
  function figure({title, label, caption, height = 260, data, layout, click}, kind = "panel") {
    const place = el("div", {class: "plot", role: "img", "aria-label": label, style: `height:${height}px`});
    drawn.set(place, {data, layout, click});
    sight.observe(place);
    return el("figure", {class: kind}, title && el("h3", {}, title), place, caption && el("figcaption", {}, caption));
  }

  /** Values and intervals of rows on one axis, the first row on top. */
  function ranking(rows, index, title) {
    const metric = Site.metrics[index];
    const names = rows.map((row) => short(row.name, innerWidth < 700 ? 14 : 28)), scores = rows.map((row) => score(row, index));
    const data = [["model", BLUE], ["reference", GREY]].map(([kind, colour]) => {
      const places = [...rows.keys()].filter((i) => rows[i].kind === kind), of = (each) => places.map((i) => each(scores[i], i));
      return {type: "scatter", mode: "markers", x: of(({value}) => value), y: places, marker: {size: 9, color: colour},
              error_x: {type: "data", symmetric: false, thickness: 3, width: 0, color: colour,
                        array: of(({value, high}) => (high ?? value) - value),
                        arrayminus: of(({value, low}) => value - (low ?? value))},
              text: of((one, i) => `${short(rows[i].name)}<br>${format(one.value)}<br>95 %: ${interval(one)}`),
              hovertemplate: "%{text}<extra></extra>"};
    });
    return figure({
      title, label: `${metric.name} of ${rows.length} rows with intervals; the overview has the numbers`, data,
      caption: `Dot and bar: value and 95 % interval; ${Site.direction(metric)}. Grey: reference rows.`,
      height: 70 + 22 * rows.length, click: (event) => { location.href = `model.html#${rows[event.points[0].y].slug}`; },
      layout: {margin: {l: 20, r: 14, t: 10, b: 44}, showlegend: false,
               xaxis: {title: {text: plain(metric.name + Site.unit(metric))}, zeroline: false, nticks: 6},
               yaxis: {tickvals: rows.map((_, i) => i), ticktext: names, range: [rows.length - 0.5, -0.5],
                       fixedrange: true, zeroline: false}}});
  }

  /** A histogram of a metric over one row's videos; orange: the mean and its interval. */
  function distribution(values, index, row) {
    const metric = Site.metrics[index], found = values.filter((value) => value != null), {value, low, high} = score(row, index);
    const [least, most] = found.reduce(([a, b], x) => [Math.min(a, x), Math.max(b, x)], [Infinity, -Infinity]);
    const bins = Math.min(30, Math.max(5, Math.round(2 * Math.sqrt(found.length)))), step = ((most - least) || 1) / bins;
    const counts = new Array(bins).fill(0);
    for (const x of found) counts[Math.min(bins - 1, Math.floor((x - least) / step))] += 1;
    const rule = (x0, x1, opacity) => ({type: "rect", xref: "x", yref: "paper", x0, x1, y0: 0, y1: 1, fillcolor: ORANGE,
                                        opacity, layer: x0 === x1 ? "above" : "below",
                                        line: {width: x0 === x1 ? 2 : 0, color: ORANGE}});
    return figure({
      title: `${metric.name} ${Site.arrow(metric)}`, height: 190,
      label: `Histogram of ${metric.name} over ${found.length} videos from ${format(least)} to ${format(most)}`,
      caption: `${found.length} videos; orange: mean${low == null ? "" : " and its 95 % interval"}.`,
      data: [{type: "bar", x: counts.map((_, i) => least + (i + 0.5) * step), y: counts, width: step * 0.94,
              marker: {color: BLUE, opacity: 0.75}, hovertemplate: "%{y} videos near %{x:.4g}<extra></extra>"}],
      layout: {margin: {l: 36, r: 10, t: 6, b: 34}, bargap: 0, xaxis: {nticks: 6, zeroline: false},
               yaxis: {nticks: 4, zeroline: false},
               shapes: value == null ? [] : [...(low == null ? [] : [rule(low, high, 0.22)]), rule(value, value, 1)]}});
  }

  return {figure, plain, short, ranking, distribution};
})();
