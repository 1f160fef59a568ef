"use strict";
/* One row: scores, strengths, its videos, the history of its run, and where everything comes from. */
(() => {
  const {el, metrics, rows, score, format, interval, BLUE, ORANGE, GREEN, GREY} = Site;
  const EXTREMES = 3;
  let drawing = 0;  // a page that was left before its data came is not drawn

  function scores(row) {
    const lines = metrics.map((metric, index) => {
      const found = score(row, index);
      const name = el("th", {scope: "row"}, Site.metricLink(metric), ` ${Site.arrow(metric)}`);
      if (found.value == null) return el("tr", {}, name, el("td", {class: "null", colspan: 4}, `no number: ${found.reason}`));
      const others = rows.filter((other) => other.kind === "model" && other.status !== "withdrawn" &&
        other !== row && score(other, index).value != null);
      const beaten = others.filter((other) => Site.better(index)(row, other) < 0).length;
      return el("tr", {}, name, el("td", {class: "number"}, el("b", {}, format(found.value)),
        el("small", {class: "unit"}, Site.unit(metric)), el("small", {class: "under"}, interval(found))),
        el("td", {class: "wide"}, Site.bar(found, Site.axis(index))),
        el("td", {class: "number"}, others.length ? `${beaten} of ${others.length}` : ""),
        el("td", {class: "number wide"}, String(found.n)));
    });
    return Site.table(["score", {text: "value, 95 %", class: "number"}, {text: "", class: "wide"}, {text: "better than", class: "number"},
      {text: "n", class: "number wide"}], lines);
  }

  /** Steps from the board's anchor (or its models' median), outwards better, cut at ±3. */
  function step(row, index) {
    const {value} = score(row, index), [middle, spread] = metrics[index].scale;
    const steps = value == null ? null : (metrics[index].higher ? 1 : -1) * (value - middle) / spread;
    return steps == null ? null : Math.max(-3, Math.min(3, steps));
  }

  function radar(row) {
    const shown = [...metrics.keys()].filter((index) => score(row, index).value != null);
    if (shown.length < 3) return null;
    const closed = [...shown, shown[0]], middle = (index) => {
      const steps = rows.filter((other) => other.rank).map((other) => step(other, index)).filter((x) => x != null);
      return steps.sort((a, b) => a - b)[steps.length >> 1] ?? null;
    };
    const theta = closed.map((index) => Plots.short(metrics[index].name, 24).replaceAll("_", "<br>"));
    const outline = (name, r, colour, dash, text) => ({type: "scatterpolar", mode: "lines+markers", name, theta, r, text,
      hovertemplate: `%{theta}: %{text}<extra></extra>`, line: {color: colour, width: 2, dash}, marker: {size: 5},
      ...(dash === "solid" ? {fill: "toself", fillcolor: "rgba(43, 131, 198, 0.15)"} : {})});
    return Plots.figure({
      title: "Strengths", height: 380, label: "Radar of all scores; the table has the numbers",
      caption: "Outwards is better: steps from the board's anchor (or the median of its models where it sets none), " +
               "cut at ±3. Dashed: the median of the ranked models.",
      data: [outline("median", closed.map(middle), GREY, "dash", closed.map((i) => format(middle(i)))),
             outline(Plots.short(row.name, 30), closed.map((i) => step(row, i)), BLUE, "solid",
                     closed.map((i) => format(score(row, i).value)))],
      layout: {margin: {l: 70, r: 70, t: 30, b: 40}, showlegend: false,
               polar: {radialaxis: {range: [-3, 3], tickvals: [-2, 0, 2], angle: 90, tickangle: 90, showline: false,
                                    tickfont: {size: 9}},
                       angularaxis: {tickfont: {size: shown.length > 16 ? 8 : 10}, direction: "clockwise"}}}});
  }

  function history(row) {
    const run = rows.filter((other) => row.run && other.run === row.run && other.status !== "withdrawn")
      .sort((a, b) => a.step - b.step);
    if (run.length < 2) return null;
    const plots = [...metrics.keys()].filter((index) => run.filter((one) => score(one, index).value != null).length > 1)
      .map((index) => course(run, row, index));
    return [el("h2", {id: "history"}, "History of the run"), el("p", {class: "muted"},
      `${run.length} checkpoints of ${row.run}; green: this one. A click opens another.`), el("div", {class: "grid"}, plots)];
  }

  function course(run, row, index) {
    const points = run.filter((one) => score(one, index).value != null), found = points.map((one) => score(one, index));
    return Plots.figure({
      title: `${metrics[index].name} ${Site.arrow(metrics[index])}`, height: 200,
      label: `${metrics[index].name} over ${points.length} checkpoints`,
      click: (event) => { location.hash = points[event.points[0].pointIndex].slug; },
      data: [{type: "scatter", mode: "lines+markers", x: points.map((one) => one.step), y: found.map(({value}) => value),
              error_y: {type: "data", symmetric: false, array: found.map(({value, high}) => (high ?? value) - value),
                        arrayminus: found.map(({value, low}) => value - (low ?? value)), color: BLUE, thickness: 1.5, width: 4},
              line: {color: BLUE, width: 2}, text: points.map((one) => Plots.short(one.name)),
              marker: {size: points.map((one) => one === row ? 12 : 7), color: points.map((one) => one === row ? GREEN : BLUE)},
              hovertemplate: "%{text}<br>step %{x}: %{y:.4g}<extra></extra>"}],
      layout: {margin: {l: 46, r: 12, t: 8, b: 38}, showlegend: false, xaxis: {title: {text: "step"}, zeroline: false, nticks: 5},
               yaxis: {zeroline: false, nticks: 5}}});
  }

  function distributions(row, data) {
    const shown = metrics.map((metric, index) => [index, data.values[index]])
      .filter(([, values]) => values?.some((value) => value != null));
    return shown.length > 0 && [el("h2", {}, "Distributions"), el("div", {class: "grid"},
      shown.map(([index, values]) => Plots.distribution(values, index, row)))];
  }

  function videos(data) {
    const shown = [...metrics.keys()].filter((index) => data.values[index]?.some((value) => value != null));
    if (!shown.length) return null;
    const place = el("div");
    const draw = (index) => {
      place.replaceChildren(...extremes(data, Number(index)));
      if (button) play(false);
    };
    const play = (on) => {
      for (const video of place.querySelectorAll("video")) if (on) video.play().catch(() => {}); else video.pause();
      button.textContent = on ? "Pause all" : "Play all";
      button.onclick = () => play(!on);
    };
    const button = data.clips.some(Boolean) && el("button", {type: "button", id: "play"});
    draw(shown[0]);
    return [el("h2", {id: "videos"}, "Best and worst videos"), el("div", {class: "controls"},
      Site.choice("By", shown[0], Site.metricChoices((metric) => shown.includes(Site.byMetric.get(metric.name))), draw), button), place];
  }

  function extremes(data, index) {
    const values = data.values[index], sign = metrics[index].higher ? -1 : 1;
    const scored = [...values.keys()].filter((i) => values[i] != null).sort((a, b) => sign * (values[a] - values[b]));
    const playable = scored.filter((i) => data.clips[i]), known = playable.length ? playable : scored;
    const count = Math.min(EXTREMES, known.length >> 1) || known.length;
    const groups = [["best", known.slice(0, count)], ["worst", known.slice(-count).reverse()]];
    return [el("p", {class: "muted"}, playable.length ? `Among the ${playable.length} of ${scored.length} videos that the ` +
      "submission brought as clips." : "The submission brought no clips; these are the prompts."),
    el("div", {class: "grid halves"}, groups.map(([group, chosen]) => el("div", {}, el("h4", {}, group),
      playable.length ? el("div", {class: "tiles"}, chosen.map((i) => tile(data, i, values[i]))) :
        el("ol", {}, chosen.map((i) => el("li", {}, named(data, i, values[i])))))))];
  }

  const named = (data, i, value) => [el("b", {}, format(value)), " ", data.prompts[i] ?? data.videos[i]];

  function tile(data, i, value) {
    const toggle = () => { if (video.paused) video.play().catch(() => {}); else video.pause(); };
    const video = el("video", {src: data.clips[i], "aria-label": data.prompts[i] ?? data.videos[i], loop: true, tabindex: "0",
      playsinline: true, preload: "metadata", onclick: toggle,
      onkeydown: (event) => { if ([" ", "Enter"].includes(event.key)) { event.preventDefault(); toggle(); } }});
    video.muted = true;
    return el("figure", {class: "tile", title: data.videos[i]}, video, el("figcaption", {}, named(data, i, value)));
  }

  function provenance(row, data) {
    const entries = [["submitted", row.submitted], ["commit", data.commit], ...data.generation,
      ["videos", `${data.counts.scored} of ${data.counts.found} scored, ${data.counts.failed} failed`],
      ["seed of the scoring", String(data.seed)], ...data.versions, ["per-video scores, sha256", data.sha256]];
    return [el("h2", {id: "provenance"}, "Provenance"), verification(row, data),
      el("dl", {}, entries.filter(([, text]) => text).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]))];
  }

  function verification(row, {verification: by, withdrawal}) {
    const parts = [];
    if (withdrawal) parts.push(el("p", {class: "bad"}, `Withdrawn on ${withdrawal.date}: ${withdrawal.reason}`));
    if (!by) return [...parts, el("p", {}, "Reported: the numbers are the submitter's own; nobody has scored the videos again.")];
    const sorted = Object.entries(by.deviations).sort(([, a], [, b]) => b - a);
    return [...parts, el("p", {}, el("span", {class: "good"}, "✓ Verified"), ` by ${by.by} on ${by.date}: ${by.videos} videos `,
      `(${format(100 * by.share)} %) were scored again; the largest deviation is ${format(100 * sorted[0][1])} % in ${sorted[0][0]}.`,
      row.failed > 0 && ` ${row.failed} of ${row.found} videos have an error, and no score.`,
      unseen(row, by).length > 0 && ` Not scored again: ${unseen(row, by).join(", ")}.`),
    el("details", {}, el("summary", {}, "Deviation by metric"), Site.table(["metric", {text: "relative deviation", class: "number"}],
      sorted.map(([name, deviation]) => el("tr", {}, el("td", {}, name), el("td", {class: "number"}, format(deviation))))))];
  }

  const unseen = (row, by) => metrics.map((metric) => metric.name)
    .filter((name, i) => score(row, i).value != null && !(name in by.deviations));

  function header(row) {
    const place = row.rank ? `rank ${Site.rank(row)} of ${rows.filter((other) => other.rank).length}` : row.unranked;
    return [el("h1", {}, row.name, " ", Site.badges(row)), el("p", {class: "muted"}, place),
      el("div", {class: "controls"}, Site.choice("Row", row.slug, rows.map((other) => [other.slug, other.name]),
        (slug) => { location.hash = slug; }), el("a", {href: `compare.html#${row.slug},${rival(row).slug}`}, "Compare with another"))];
  }

  const rival = (row) => rows.find((other) => other !== row) ?? row;

  async function draw() {
    const row = Site.bySlug.get(Site.anchor()) ?? (Site.anchor() ? null : rows[0]), turn = (drawing += 1);
    if (!row) return Site.show(el("h1", {}, "No such row"), el("p", {}, el("a", {href: "index.html"}, "The overview lists all.")));
    document.title = `${row.name} · ${BOARD.title}`;
    const data = await Site.load(row.slug);
    if (turn !== drawing) return undefined;
    Site.show(header(row), data.links.length > 0 && el("p", {}, data.links.map(([name, url], i) =>
      [i > 0 && " · ", Site.webLink(url, name)])), el("div", {class: "split"}, el("div", {}, scores(row)), radar(row)),
    videos(data), history(row), distributions(row, data), provenance(row, data));
    scrollTo(0, 0);
    return undefined;
  }

  addEventListener("hashchange", draw);
  draw();
})();
