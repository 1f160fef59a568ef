"use strict";
/* What all pages share. Whatever a submission says reaches the page as text: nothing here parses markup. */
const Site = (() => {
  const metrics = BOARD.metrics, rows = BOARD.rows;
  const bySlug = new Map(rows.map((row) => [row.slug, row]));
  const byMetric = new Map(metrics.map((metric, index) => [metric.name, index]));
  const BLUE = "#2b83c6", ORANGE = "#d9620f", GREEN = "#159a75", GREY = "#87909b";

  /** An element. Keys that begin with "on" are listeners; children are nodes or text. */
  function el(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else if (key === "value" || key === "checked" || key === "disabled") node[key] = value;
      else if (value !== false && value != null) node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.flat(2).filter((child) => child != null && child !== false));
    return node;
  }

  /** Four significant digits, as the tables in the terminal have them. */
  function format(value) {
    if (value == null) return "–";
    const size = Math.abs(value);
    return size === 0 || (size >= 1e-3 && size < 1e5) ? String(Number(value.toPrecision(4))) : value.toExponential(2);
  }

  const interval = (score) => score.low == null ? "" : `${format(score.low)} to ${format(score.high)}`;
  const arrow = (metric) => metric.higher ? "↑" : "↓";
  const direction = (metric) => metric.higher ? "higher is better" : "lower is better";
  const unit = (metric) => metric.unit ? ` ${metric.unit}` : "";

  /** The score of a row: {value, low, high, n}; value null where there is none, and `reason` says why. */
  function score(row, index) {
    const found = row.scores[index];
    if (typeof found === "string") return {value: null, low: null, high: null, n: 0, reason: found};
    const [value, low, high, n] = found;
    return {value, low, high, n};
  }

  /** "3", or "2–5" where the models between are not distinguishable. */
  function rank(row) {
    if (!row.rank) return "–";
    return row.rank[0] === row.rank[1] ? String(row.rank[0]) : `${row.rank[0]}–${row.rank[1]}`;
  }

  /** < 0 where a is better; rows without a value come last whatever the direction. */
  function better(index, reverse = false) {
    const sign = (metrics[index].higher ? -1 : 1) * (reverse ? -1 : 1);
    return (a, b) => {
      const [x, y] = [score(a, index).value, score(b, index).value];
      if (x == null || y == null) return (x == null) - (y == null);
      return sign * (x - y) || (a.slug < b.slug ? -1 : 1);
    };
  }

  const axes = new Map();
  /** The ends of a column's drawn axis: what the models span. Reference rows may lie outside and are cut. */
  function axis(index) {
    if (!axes.has(index)) {
      const shown = rows.filter((row) => row.kind === "model" && row.status !== "withdrawn");
      const ends = (shown.length ? shown : rows).flatMap((row) => {
        const {value, low, high} = score(row, index);
        return [value, low, high].filter((end) => end != null);
      });
      axes.set(index, ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1]);
    }
    return axes.get(index);
  }

  /** An interval as a bar with the value as a dot; from 4 % to 96 % of its width. */
  function bar({value, low, high}, [from, to], zero = false) {
    const place = (x) => `${(4 + 92 * Math.min(1, Math.max(0, (x - from) / ((to - from) || 1)))).toFixed(1)}%`;
    const off = value < from || value > to;
    const node = el("span", {class: `bar${zero ? " zero" : ""}${off ? " off" : ""}`, "aria-hidden": "true"}, el("i"),
      zero && el("b"));
    node.style.setProperty("--value", place(value));
    node.style.setProperty("--low", place(low ?? value));
    node.style.setProperty("--high", place(high ?? value));
    if (zero) node.style.setProperty("--zero", place(0));
    return node;
  }

  const modelLink = (row) => el("a", {href: `model.html#${row.slug}`}, row.name);
  /** A name that may wrap after each "_". */
  const breakable = (name) => name.split(/(?<=_)/).flatMap((part, i) => i ? [el("wbr"), part] : [part]);
  const metricLink = (metric) => el("a", {href: `metric.html#${encodeURIComponent(metric.name)}`}, breakable(metric.name));

  function badges(row) {
    return [row.status === "verified" && el("span", {class: "badge verified"}, "✓ verified"),
            row.failed > 0 && el("span", {class: "badge failed"}, `${row.failed} of ${row.found} failed`),
            row.status === "withdrawn" && el("span", {class: "badge withdrawn"}, "withdrawn"),
            row.kind === "reference" && el("span", {class: "badge"}, "reference"),
            row.pareto && el("span", {class: "badge", title: "no row is as good in everything and better in something"},
              "Pareto")];
  }

  const options = (chosen, entries) => entries.map(([value, text]) =>
    el("option", {value, selected: String(value) === String(chosen)}, text));

  /** A labelled choice; `change` gets the chosen value as text. */
  function choice(label, chosen, entries, change) {
    return el("label", {}, label, el("select", {onchange: (event) => change(event.target.value)},
      options(chosen, entries)));
  }

  const metricChoices = (only = () => true) => metrics.map((metric, index) => [index, metric.name])
    .filter(([index]) => only(metrics[index]));

  const loading = new Map();
  /** Everything of one submission, from a script: pages opened from a disk may not fetch. */
  function load(slug) {
    if (!loading.has(slug)) {
      loading.set(slug, new Promise((resolve, reject) => {
        const script = el("script", {src: `data/models/${slug}.js`, onload: () => resolve(received.get(slug)),
                                     onerror: () => reject(new Error(`no data of ${slug}`))});
        document.head.append(script);
      }));
    }
    return loading.get(slug);
  }
  const received = new Map();
  const receive = (slug, text) => received.set(slug, JSON.parse(text));

  /** Link targets: nothing but the web, whatever a submission says. */
  function webLink(url, text = url) {
    return /^https?:\/\//i.test(url) ? el("a", {href: url, rel: "noopener noreferrer nofollow"}, text) : text;
  }

  /** The part of the address after "#", or "". */
  function anchor() {
    try { return decodeURIComponent(location.hash.slice(1)); } catch { return ""; }
  }

  function show(...content) {
    document.querySelector("nav [aria-current]")?.scrollIntoView({inline: "nearest", block: "nearest"});
    document.getElementById("main").replaceChildren(...content.flat(2).filter(Boolean));
  }

  function table(heads, body, kind = "") {
    return el("div", {class: "scroll"}, el("table", {class: kind}, el("thead", {}, el("tr", {}, heads.map((head) =>
      el("th", {scope: "col", class: typeof head === "string" ? "" : head.class}, head.text ?? head)))),
    el("tbody", {}, body)));
  }

  return {metrics, rows, bySlug, byMetric, BLUE, ORANGE, GREEN, GREY, el, format, interval, arrow, direction, unit, score,
          rank, better, axis, bar, modelLink, metricLink, breakable, badges, choice, options, metricChoices, load, receive, webLink,
          anchor, show, table};
})();
