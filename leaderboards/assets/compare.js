"use strict";
/* Two rows head to head: differences paired by prompt, a dot per prompt, and their videos side by side. */
(() => {
  const {el, metrics, rows, score, format, BLUE, ORANGE, GREY} = Site;
  const places = {plot: el("div"), videos: el("div")};
  const LONGEST = 400;  // prompts in the choice of videos
  let drawing = 0;

  const sides = () => {
    const [a, b] = Site.anchor().split(",").map((slug) => Site.bySlug.get(slug));
    const first = a ?? rows[0];
    return [first, b ?? rows.find((row) => row !== first) ?? first];
  };
  const go = (a, b) => { location.hash = `${a},${b}`; };

  /** Prompt -> mean over its videos, of one metric of one submission; videos pair by name where prompts do not. */
  function means(data, index, key) {
    const found = new Map();
    (data.values[index] ?? []).forEach((value, i) => {
      if (value == null || data[key][i] == null) return;
      const known = found.get(data[key][i]) ?? [0, 0];
      found.set(data[key][i], [known[0] + value, known[1] + 1]);
    });
    return new Map([...found].map(([prompt, [sum, count]]) => [prompt, sum / count]));
  }

  /** [prompt, A, B] of one metric for everything that both have; by file name where fewer than two prompts are shared. */
  function pairs(a, b, index) {
    for (const key of ["prompts", "videos"]) {
      const left = means(a, index, key), right = means(b, index, key);
      const shared = [...left.keys()].filter((prompt) => right.has(prompt)).sort();
      if (shared.length > 1) return shared.map((prompt) => [prompt, left.get(prompt), right.get(prompt)]);
    }
    return [];
  }

  /** What is known of B against A in a metric: paired where both have scores by video, from the intervals otherwise. */
  function compared(rowA, rowB, dataA, dataB, index) {
    const [a, b] = [score(rowA, index), score(rowB, index)], metric = metrics[index];
    if (a.value == null || b.value == null) return {a, b, difference: null, why: "one of the two has no number", pairs: []};
    if (!metric.per_video) return {a, b, pairs: [], ...Statistics.unpaired(a, b)};
    const shared = pairs(dataA, dataB, index);
    if (!shared.length) return {a, b, difference: null, why: "fewer than two prompts in common", pairs: []};
    return {a, b, pairs: shared, ...Statistics.paired(shared.map(([, left, right]) => right - left))};
  }

  function verdict(found, metric) {
    if (found.difference == null) return [found.why, "null"];
    if (found.adjusted >= 0.05 || found.difference === 0) return ["not told apart", "null"];
    return (found.difference > 0) === metric.higher ? ["B better", "side-b"] : ["A better", "side-a"];
  }

  function line(found, index) {
    const metric = metrics[index], [words, kind] = verdict(found, metric);
    const reach = Math.max(...[found.low, found.high, found.difference].map((x) => Math.abs(x ?? 0))) || 1;
    return el("tr", {"data-metric": metric.name}, el("th", {scope: "row"}, Site.metricLink(metric), ` ${Site.arrow(metric)}`),
      el("td", {class: "number wide"}, format(found.a.value)), el("td", {class: "number wide"}, format(found.b.value)),
      el("td", {class: "number"}, found.difference == null ? "–" : el("b", {}, (found.difference > 0 ? "+" : "") +
        format(found.difference)), found.low != null && el("small", {class: "under"}, Site.interval(found))),
      el("td", {class: "wide"}, found.difference != null && Site.bar({value: found.difference, low: found.low, high: found.high},
        [-reach, reach], true)),
      el("td", {}, el("span", {class: kind}, words), found.difference != null && el("small", {class: "under"},
        `p ${probability(found.adjusted)}`)),
      el("td", {class: "number wide"}, found.difference == null ? "" : String(found.n)));
  }

  const probability = (p) => p < 0.001 ? "< 0.001" : `= ${p.toFixed(3)}`;

  function differences(found) {
    return [Site.table(["score", {text: "A", class: "number wide"}, {text: "B", class: "number wide"},
      {text: "B − A, 95 %", class: "number"}, {text: "", class: "wide"}, "verdict", {text: "n", class: "number wide"}], found.map(line)),
    el("p", {class: "muted"}, "Scores per video are averaged per prompt and compared prompt by prompt: a two-sided sign-flip ",
      "test, and the interval of the shifts that it does not reject (from 6 prompts on); n counts prompts. Scores of whole ",
      "sets are compared by their intervals, n counts videos. p is corrected for the number of scores (Holm).")];
  }

  function scatter(found, index, show) {
    const metric = metrics[index], [a, b] = [1, 2].map((side) => found.pairs.map((pair) => pair[side]));
    const all = [...a, ...b], low = Math.min(...all), high = Math.max(...all);
    const won = found.pairs.map(([, left, right]) => Math.sign((right - left) * (metric.higher ? 1 : -1)));
    const count = (side) => won.filter((sign) => sign === side).length;
    return Plots.figure({
      label: `${metric.name} of ${a.length} prompts, A across and B up`, height: 420,
      caption: `A dot is a prompt: B is better in ${count(1)} (blue), A in ${count(-1)} (orange), equal in ${count(0)}. ` +
               "A click shows the videos of a prompt.",
      click: (event) => { if (event.points[0].customdata != null) show(event.points[0].customdata); },
      data: [{type: "scatter", mode: "lines", x: [low, high], y: [low, high], hoverinfo: "skip",
              line: {color: GREY, width: 1, dash: "dot"}},
             {type: "scatter", mode: "markers", x: a, y: b, customdata: found.pairs.map(([prompt]) => prompt),
              text: found.pairs.map(([prompt, left, right]) =>
                `${Plots.short(prompt)}<br>A ${format(left)}, B ${format(right)}`), hovertemplate: "%{text}<extra></extra>",
              marker: {size: 8, opacity: 0.7, color: won.map((sign) => sign > 0 ? BLUE : sign < 0 ? ORANGE : GREY)}}],
      layout: {showlegend: false, xaxis: {title: {text: `A: ${Plots.plain(metric.name)}`}, zeroline: false},
               yaxis: {title: {text: `B: ${Plots.plain(metric.name)}`}, zeroline: false}}});
  }

  function chart(found, show) {
    const shown = [...metrics.keys()].filter((index) => found[index].pairs.length);
    if (!shown.length) return [el("p", {class: "muted"}, "No score per video that both rows have.")];
    const draw = (index) => places.plot.replaceChildren(scatter(found[index], Number(index), show));
    draw(shown[0]);
    return [el("div", {class: "controls"}, Site.choice("Score", shown[0],
      Site.metricChoices((metric) => shown.includes(Site.byMetric.get(metric.name))), draw)), places.plot];
  }

  /** Prompt -> [clip of A, clip of B], of prompts with a clip on both sides; by file name where there are no prompts. */
  function clips(dataA, dataB) {
    for (const key of ["prompts", "videos"]) {
      const [left, right] = [dataA, dataB].map((data) => {
        const found = new Map();
        data.clips.forEach((clip, i) => { if (clip && data[key][i] != null && !found.has(data[key][i])) found.set(data[key][i], clip); });
        return found;
      });
      const shared = [...left.keys()].filter((prompt) => right.has(prompt)).sort();
      if (shared.length) return new Map(shared.map((prompt) => [prompt, [left.get(prompt), right.get(prompt)]]));
    }
    return new Map();
  }

  function player(found, rowA, rowB) {
    const prompts = [...found.keys()];
    const picker = el("select", {id: "prompt", onchange: () => show(prompts[picker.value])},
      prompts.slice(0, LONGEST).map((prompt, i) => el("option", {value: i}, prompt)));
    let players = [];
    const play = el("button", {type: "button", id: "play", onclick: () => toggle(players[0].paused)}, "Play both");
    function toggle(on) {
      if (on) players[1].currentTime = players[0].currentTime;
      for (const one of players) if (on) one.play().catch(() => {}); else one.pause();
      play.textContent = on ? "Pause both" : "Play both";
    }
    function show(prompt) {
      if (!found.has(prompt)) return;
      const was = players.length > 0 && !players[0].paused;
      picker.value = prompts.indexOf(prompt);
      players = found.get(prompt).map((src, side) => el("video", {src, loop: true, playsinline: true, preload: "auto",
        "aria-label": `${"AB"[side]}: ${prompt}`}));
      for (const one of players) one.muted = true;
      places.videos.replaceChildren(el("p", {class: "prompt"}, prompt), el("div", {class: "pair"},
        [rowA, rowB].map((row, side) => el("figure", {}, players[side], el("figcaption", {}, `${"AB"[side]} · ${row.name}`)))));
      toggle(was);
    }
    show(prompts[0]);
    return {show, node: [el("div", {class: "controls"}, el("label", {}, "Prompt", picker), play), places.videos]};
  }

  function header(a, b) {
    const names = rows.map((row) => [row.slug, row.name]);
    return [el("h1", {}, "Head to head"), el("div", {class: "controls"},
      Site.choice("A", a.slug, names, (slug) => go(slug, b.slug)), Site.choice("B", b.slug, names, (slug) => go(a.slug, slug)),
      el("button", {type: "button", onclick: () => go(b.slug, a.slug)}, "⇄ Swap")),
    el("p", {}, "A: ", Site.modelLink(a), " ", Site.badges(a), " · B: ", Site.modelLink(b), " ", Site.badges(b))];
  }

  async function draw() {
    const [a, b] = sides(), turn = (drawing += 1);
    if (!a) return Site.show(el("h1", {}, "Head to head"), el("p", {}, "The board has no rows yet."));
    document.title = `${a.name} against ${b.name} · ${BOARD.title}`;
    if (a === b) return Site.show(header(a, b), el("p", {}, "Choose two different rows."));
    const [dataA, dataB] = await Promise.all([Site.load(a.slug), Site.load(b.slug)]);
    if (turn !== drawing) return undefined;
    const found = metrics.map((_, index) => compared(a, b, dataA, dataB, index));
    const tested = found.filter((one) => one.difference != null);
    Statistics.holm(tested.map((one) => one.p)).forEach((p, i) => { tested[i].adjusted = p; });
    const playable = clips(dataA, dataB), videos = playable.size ? player(playable, a, b) : null;
    Site.show(header(a, b), differences(found), el("h2", {}, "Videos"), videos ? videos.node :
      el("p", {class: "muted"}, "The two rows brought no clips of the same prompt."),
    el("h2", {}, "Prompt by prompt"), chart(found, (prompt) => {
      videos?.show(prompt);
      if (playable.has(prompt)) places.videos.scrollIntoView({block: "center"});
    }));
    return undefined;
  }

  addEventListener("hashchange", draw);
  draw();
})();
