"use strict";
/* Two axes, a third as colour: which rows no other beats in all of them, and the volume that they cover. */
(() => {
  const {el, metrics, rows, score, format, BLUE, ORANGE, GREY} = Site;
  const weighted = [...metrics.keys()].sort((a, b) => metrics[b].weight - metrics[a].weight || a - b);
  const state = {x: weighted[0], y: weighted[1] ?? weighted[0], z: ""};
  const place = el("div");

  const indices = () => [state.x, state.y, ...(state.z === "" ? [] : [state.z])];
  const sign = (index) => metrics[index].higher ? 1 : -1;

  function found() {
    const chosen = indices();
    const shown = rows.filter((row) => row.status !== "withdrawn" && chosen.every((i) => score(row, i).value != null));
    const models = shown.filter((row) => row.kind === "model");
    const values = models.map((row) => chosen.map((i) => sign(i) * score(row, i).value));
    const onFront = new Set(Statistics.front(values).map((i) => models[i]));
    const nadir = chosen.map((_, m) => values.reduce((least, row) => Math.min(least, row[m]), Infinity));
    const span = chosen.map((_, m) => values.reduce((most, row) => Math.max(most, row[m]), -Infinity) - nadir[m] || 1);
    const boxes = values.map((row) => row.map((x, m) => (x - nadir[m]) / span[m])).filter((row) => row.every((x) => x > 0));
    return {models, references: shown.filter((row) => row.kind !== "model"), onFront, nadir,
            covered: Statistics.volume(boxes.filter((_, i, all) => Statistics.front(all).includes(i)))};
  }

  function trace(group, name, marker, extra = {}) {
    return {type: "scatter", mode: "markers", name, x: group.map((row) => score(row, state.x).value),
            y: group.map((row) => score(row, state.y).value), customdata: group.map((row) => row.slug),
            text: group.map((row) => `${Plots.short(row.name)}<br>` + indices().map((i) =>
              `${Plots.plain(metrics[i].name)}: ${format(score(row, i).value)}`).join("<br>")),
            hovertemplate: "%{text}<extra></extra>", marker, ...extra};
  }

  /** The edge of what the front dominates, as steps; with a third axis there is no line to draw. */
  function edge(front) {
    const better = (a, b) => sign(state.x) * (score(a, state.x).value - score(b, state.x).value);
    const sorted = [...front].sort(better);
    return {type: "scatter", mode: "lines", name: "front", hoverinfo: "skip",
            x: sorted.map((row) => score(row, state.x).value), y: sorted.map((row) => score(row, state.y).value),
            line: {color: ORANGE, width: 2, dash: "dot", shape: "vh"}};
  }

  function plot({models, references, onFront}) {
    const front = models.filter((row) => onFront.has(row)), rest = models.filter((row) => !onFront.has(row));
    const colours = (group) => state.z === "" ? {} : {
      color: group.map((row) => score(row, state.z).value), coloraxis: "coloraxis"};
    const title = (i) => ({text: Plots.plain(`${metrics[i].name}${Site.unit(metrics[i])} ${Site.arrow(metrics[i])}`)});
    return Plots.figure({
      label: `Scatter of ${metrics[state.x].name} and ${metrics[state.y].name} for ${models.length} models, ` +
             `${front.length} on the front; the table below lists them`,
      height: Math.min(560, Math.max(380, innerHeight * 0.6)),
      caption: `Orange rings: on the front. ${state.z === "" ? "" : `Colour: ${metrics[state.z].name}, ` +
        `${Site.direction(metrics[state.z])}. `}Crosses: reference rows, which take no part. A click opens the model.`,
      click: (event) => { location.href = `model.html#${event.points[0].customdata}`; },
      data: [...(state.z === "" ? [edge(front)] : []),
             trace(references, "reference", {symbol: "x-thin", size: 9, line: {color: GREY, width: 2}}),
             trace(rest, "models", {size: 8, color: BLUE, opacity: 0.65, ...colours(rest)}),
             trace(front, "on the front", {size: 11, color: BLUE, line: {color: ORANGE, width: 2.5}, ...colours(front)},
                   front.length <= 12 && innerWidth > 700 ? {mode: "markers+text", textposition: "top center",
                     texttemplate: "%{meta}", meta: "", ...labels(front)} : {})],
      layout: {showlegend: false, xaxis: {title: title(state.x), zeroline: false}, yaxis: {title: title(state.y),
               zeroline: false}, coloraxis: {colorscale: "Viridis", reversescale: state.z !== "" && sign(state.z) < 0,
               colorbar: {thickness: 12, title: {text: state.z === "" ? "" : Plots.plain(metrics[state.z].name)}}}}});
  }

  const labels = (front) => ({texttemplate: front.map((row) => Plots.short(row.name, 22))});

  function list({onFront}) {
    const sorted = [...onFront].sort(Site.better(state.x));
    return Site.table(["on the front", ...indices().map((i) => ({text: `${metrics[i].name} ${Site.arrow(metrics[i])}`,
                                                                 class: "number"}))],
      sorted.map((row) => el("tr", {}, el("th", {scope: "row"}, Site.modelLink(row), " ", Site.badges(row)),
        indices().map((i) => el("td", {class: "number"}, format(score(row, i).value))))));
  }

  function draw() {
    const result = found();
    if (!result.models.length) return place.replaceChildren(el("p", {}, "No model has a value on all of these axes."));
    const nadir = indices().map((i, m) => `${metrics[i].name} ${format(sign(i) * result.nadir[m])}`).join(", ");
    place.replaceChildren(plot(result), el("p", {id: "volume"}, `On the front: ${result.onFront.size} of ${result.models.length} `,
      "models. They cover ", el("b", {}, `${format(100 * result.covered)} %`), ` of the box between the worst value `,
      `(${nadir}) and the best value of each axis (hypervolume).`), list(result));
    return undefined;
  }

  const axis = (key, label, entries) => Site.choice(label, state[key], entries, (value) => {
    state[key] = value === "" ? "" : Number(value);
    draw();
  });
  Site.show(el("h1", {}, "Trade-offs"),
    el("p", {}, "A row is on the front when no model is at least as good on every chosen axis and better on one."),
    el("div", {class: "controls"}, axis("x", "Across", Site.metricChoices()), axis("y", "Up", Site.metricChoices()),
      axis("z", "Colour", [["", "none"], ...Site.metricChoices()])), place);
  draw();
})();
