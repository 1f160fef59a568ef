"use strict";
/* What one column measures, and how the rows stand in it. */
(() => {
  const {el, metrics, rows, score, format} = Site;
  const MOST = 40;  // rows of the figure

  function facts(metric) {
    const [low, high] = metric.range.map((bound) => bound == null ? "unbounded" : format(bound));
    const entries = [["direction", `${Site.arrow(metric)} ${Site.direction(metric)}`], ["range", `${low} to ${high}`],
      ["unit", metric.unit || "none"], ["counts", metric.weight ? `weight ${format(metric.weight)} in the composite and ` +
        "among the wins" : "not in the composite"],
      ["scale", `0 is ${format(metric.scale[0])}, one step ${format(metric.scale[1])} (${metric.anchored ?
        "anchors of the board" : "median and spread of its models"})`],
      ["one number per", metric.per_video ? "video; the score is their mean" : "set of videos"],
      ["reads", metric.extractors], ["needs", metric.needs],
      ["known weaknesses", metric.weakness || "none recorded"]];
    return el("dl", {}, entries.filter(([, text]) => text).map(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
  }

  function ranked(index) {
    const found = rows.filter((row) => row.status !== "withdrawn" && score(row, index).value != null).sort(Site.better(index));
    const models = found.filter((row) => row.kind === "model").slice(0, MOST), shown = new Set(models);
    const kept = found.filter((row) => shown.has(row) || row.kind === "reference");
    const more = found.length - kept.length;
    return [Plots.ranking(kept, index), more > 0 && el("p", {class: "muted"},
      `The best ${MOST}; ${more} more in the `, el("a", {href: "index.html"}, "overview"), ".")];
  }

  function missing(index) {
    const without = rows.filter((row) => score(row, index).value == null);
    return without.length > 0 && el("details", {}, el("summary", {}, `${without.length} rows without a number`),
      el("ul", {}, without.map((row) => el("li", {}, Site.modelLink(row), `: ${score(row, index).reason}`))));
  }

  function draw() {
    const index = Site.byMetric.get(Site.anchor()) ?? 0, metric = metrics[index];
    document.title = `${metric.name} · ${BOARD.title}`;
    const protocol = BOARD.protocols[metric.protocol];
    Site.show(el("h1", {}, `${metric.name} ${Site.arrow(metric)}`), metric.summary && el("p", {}, metric.summary),
      el("div", {class: "controls"}, Site.choice("Metric", index, Site.metricChoices(),
        (value) => { location.hash = encodeURIComponent(metrics[value].name); })),
      facts(metric),
      metric.card && el("p", {}, el("a", {href: metric.card}, "The card of this reward: how it responds, and how it is hacked")),
      el("h2", {}, "Rows"), ranked(index), missing(index),
      el("h2", {}, "Protocol"), protocol ? [el("p", {class: "muted"}, "Everything that the score depends on; the id ",
        el("code", {}, metric.protocol), " is a hash of it. Rows under another id are refused."),
        el("pre", {tabindex: "0"}, JSON.stringify(protocol, null, 2))] : el("p", {class: "muted"}, "No row has fixed one yet."));
  }

  addEventListener("hashchange", draw);
  draw();
})();
