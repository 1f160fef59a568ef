"use strict";
(() => {
  const QUESTIONS = {
    visual: ["Picture", "Which one looks better?"], motion: ["Motion", "Which one moves better?"],
    text: ["Prompt", "Which one shows what the prompt says?"], overall: ["Over all", "Which one would you keep?"],
  };
  const CHOICES = [["left", "A", "←", "A is better"], ["right", "B", "→", "B is better"], ["tie", "Tie", "↓", "Tie"],
                   ["bad", "Both bad", "↑", "Both are bad"]];
  const KEYS = {ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie", ArrowUp: "bad",
                1: "left", 2: "right", 3: "tie", 4: "bad"};
  const SITTING = 100;  // votes after which a break is suggested
  const LAG = 0.08;     // seconds that two videos may be apart
  const at = (id) => document.getElementById(id);
  const make = (tag, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), properties);
    node.append(...children);
    return node;
  };
  const sleep = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));
  const stored = (name) => JSON.parse(localStorage.getItem(`evalkit-arena-${name}`));
  const store = (name, value) => localStorage.setItem(`evalkit-arena-${name}`, JSON.stringify(value));
  const videos = [at("left"), at("right")];
  let task = null, dimensions = [], answers = {}, current = 0, watched = 0, since = null, playing = true, sitting = 0;

  function notice(text) {
    at("notice").hidden = !text;
    at("notice").textContent = text;
  }

  // A server that is away comes back: what is asked of it is asked again until it answers.
  async function call(path, body) {
    for (let wait = 0.5; ; wait = Math.min(wait * 2, 5)) {
      try {
        const answer = await fetch(path, body && {method: "POST", headers: {"Content-Type": "application/json"},
                                                  body: JSON.stringify(body)});
        if (answer.status < 500) {
          notice("");
          return {ok: answer.ok, status: answer.status, told: await answer.json()};
        }
      } catch { /* not reached */ }
      notice("The server does not answer. Nothing is lost: it is tried again.");
      await sleep(wait);
    }
  }

  function show(id) {
    for (const part of ["start", "ballot", "done", "results"]) at(part).hidden = part !== id;
  }

  // ---- voting

  async function begin() {
    const rater = stored("rater");
    if (!rater) return show("start");
    await deliver();
    await next(rater);
  }

  async function next(rater) {
    const {ok, told} = await call("/api/next", {rater});
    if (!ok) return notice(told.error || told.detail || "The question cannot be asked.");
    document.title = told.title;
    at("title").textContent = told.title;
    at("progress").textContent = `${rater}: ${told.answered} answered, ${told.left} left`;
    task = told.task;
    dimensions = told.dimensions;
    if (!task) return show("done");
    if (sitting && sitting % SITTING === 0) notice(`${sitting} answers in this sitting: a break keeps them good.`);
    put();
  }

  function put() {
    answers = {};
    current = watched = 0;
    since = null;
    at("prompt").textContent = task.prompt;
    at("questions").replaceChildren(...dimensions.map(question));
    videos[0].src = task.left;
    videos[1].src = task.right;
    show("ballot");
    mark();
  }

  function question(name, row) {
    const [title, text] = QUESTIONS[name];
    const buttons = CHOICES.map(([value, label, key, spoken]) => {
      const button = make("button", {type: "button", textContent: label}, make("small", {textContent: key}));
      button.setAttribute("role", "radio");
      button.setAttribute("aria-label", spoken);
      button.dataset.value = value;
      button.onclick = () => { current = row; choose(value); };
      return button;
    });
    const choices = make("div", {className: "choices"}, ...buttons);
    choices.setAttribute("role", "radiogroup");
    choices.setAttribute("aria-label", text);
    const node = make("div", {className: "question"},
                      make("div", {}, make("b", {textContent: title}), make("span", {className: "muted", textContent: text})),
                      choices);
    node.dataset.dimension = name;
    return node;
  }

  function choose(value) {
    if (since === null && watched === 0) return;  // nothing was seen yet
    answers[dimensions[current]] = value;
    current = Math.min(current + 1, dimensions.length);
    mark();
  }

  function mark() {
    for (const [row, node] of [...at("questions").children].entries()) {
      node.classList.toggle("current", row === current);
      if (row === current && row) node.scrollIntoView({block: "nearest"});  // on a phone it lies below the videos
      for (const button of node.querySelectorAll("button")) {
        button.setAttribute("aria-checked", answers[node.dataset.dimension] === button.dataset.value);
      }
    }
    at("send").disabled = dimensions.some((name) => !answers[name]);
  }

  // The vote lies in this browser until the server has said that it has it; its token makes sending it twice harmless.
  async function send(skip) {
    if (!task || (!skip && at("send").disabled)) return;
    const seconds = Math.min(86400, watched + (since === null ? 0 : (performance.now() - since) / 1000));
    store("pending", {rater: stored("rater"), token: task.token, answers: skip ? {} : answers, seconds});
    task = null;
    at("send").disabled = true;
    await deliver();
    sitting += !skip;
    await next(stored("rater"));
  }

  async function deliver() {
    const vote = stored("pending");
    if (!vote) return;
    const {ok, status, told} = await call("/api/vote", vote);
    if (!ok && status === 401) return notice(told.error);
    localStorage.removeItem("evalkit-arena-pending");
    if (!ok && status !== 404 && status !== 409) notice(`The vote was not taken: ${JSON.stringify(told.detail || told.error)}`);
  }

  // ---- the two players

  const ready = () => videos.every((video) => video.readyState >= 2);
  const longer = () => videos[0].duration >= videos[1].duration ? videos : [videos[1], videos[0]];

  function play(on) {
    playing = on;
    at("play").textContent = on ? "Pause" : "Play";
    for (const video of videos) on && !video.ended ? video.play().catch(() => {}) : video.pause();
  }

  function seek(seconds) {
    for (const video of videos) video.currentTime = Math.min(seconds, video.duration || 0);
  }

  function restart() {
    seek(0);
    play(true);
  }

  function follow() {
    if (!at("ballot").hidden && ready()) {
      const [lead, other] = longer();
      const wanted = Math.min(lead.currentTime, other.duration);
      if (!lead.seeking && !other.seeking && Math.abs(other.currentTime - wanted) > LAG) other.currentTime = wanted;
      if (lead.ended && playing) restart();
      if (document.activeElement !== at("scrub")) at("scrub").value = 1000 * lead.currentTime / lead.duration;
    }
    requestAnimationFrame(follow);
  }

  for (const video of videos) {
    video.addEventListener("loadeddata", () => {
      at("stage").classList.toggle("wide", videos.some((one) => one.videoWidth > 1.2 * one.videoHeight));
      if (!ready() || since !== null) return;
      since = performance.now();
      restart();
    });
    video.addEventListener("error", () => {
      if (video.getAttribute("src")) notice("A video of this pair cannot be played here. Please skip it.");
    });
  }

  document.addEventListener("visibilitychange", () => {  // time in another tab is no time of thought
    if (!task) return;
    if (document.hidden && since !== null) [watched, since] = [watched + (performance.now() - since) / 1000, null];
    else if (!document.hidden && since === null && watched) since = performance.now();
  });

  at("start").addEventListener("submit", (event) => {
    event.preventDefault();
    store("rater", at("rater").value.trim());
    begin();
  });
  at("send").onclick = () => send(false);
  at("skip").onclick = () => send(true);
  at("play").onclick = () => play(!playing);
  at("again").onclick = restart;
  at("scrub").oninput = () => { play(false); seek(at("scrub").value / 1000 * longer()[0].duration); };
  at("scrub").onchange = () => at("scrub").blur();

  addEventListener("click", (event) => {  // of the mouse: the keys go on meaning what they say
    if (event.detail) event.target.closest?.("button")?.blur();
  });

  addEventListener("keydown", (event) => {
    if (at("ballot").hidden || event.ctrlKey || event.metaKey || event.altKey || event.target === at("scrub")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if ((key === "Enter" || key === " ") && event.target.closest?.("button, summary, a")) return;  // its own click
    if (event.repeat && key !== "Backspace") return;
    if (KEYS[key] && current < dimensions.length) choose(KEYS[key]);
    else if (key === "Backspace") { current = Math.max(0, current - 1); mark(); }
    else if (key === "Enter") send(false);
    else if (key === " ") play(!playing);
    else if (key === "r") restart();
    else if (key === "s") send(true);
    else if (!KEYS[key]) return;
    event.preventDefault();
  });

  // ---- results

  const percent = (value) => value === null ? "–" : `${Math.round(100 * value)} %`;
  const number = (value, digits) => value === null ? "–" : value.toFixed(digits);
  const cell = (text, note) => make("td", {className: "number", textContent: text},
                                    ...(note ? [make("small", {textContent: note})] : []));
  const within = (ci) => ci ? `${Math.round(100 * ci[0])}–${Math.round(100 * ci[1])}` : "";

  function table(names, rows, empty) {
    if (!rows.length) return make("p", {className: "muted", textContent: empty});
    const head = names.map((name, k) => make("th", {textContent: name, scope: "col",
                                                    className: rows[0].children[k].className}));
    return make("div", {className: "scroll"}, make("table", {}, make("thead", {}, make("tr", {}, ...head)),
                                                   make("tbody", {}, ...rows)));
  }

  function drawing(label, ...shapes) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 136 26");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", label);
    for (const [tag, attributes] of shapes) {
      const shape = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(attributes)) shape.setAttribute(name, value);
      svg.append(shape);
    }
    return make("td", {}, svg);
  }

  function interval(share, ci) {
    const x = (value) => 4 + 128 * value;
    return drawing(`${percent(share)}, 95 % interval ${within(ci)}`,
                   ["line", {class: "axis", x1: x(0), x2: x(1), y1: 13, y2: 13}],
                   ["line", {class: "axis", x1: x(0.5), x2: x(0.5), y1: 6, y2: 20}],
                   ...(ci ? [["line", {class: "range", x1: x(ci[0]), x2: x(ci[1]), y1: 13, y2: 13}]] : []),
                   ["circle", {class: "dot", cx: x(share), cy: 13, r: 4}]);
  }

  function curve(label, values, top) {
    const points = values.map((value, k) => [k, value]).filter(([, value]) => value !== null);
    const high = top || Math.max(...points.map(([, value]) => value), 1e-9);
    const place = ([k, value]) => [4 + 128 * k / Math.max(values.length - 1, 1), 23 - 20 * Math.min(value / high, 1)];
    const axis = ["line", {class: "axis", x1: 4, x2: 132, y1: 24, y2: 24}];
    const dots = points.map(place).map(([cx, cy]) => ["circle", {class: "dot", cx, cy, r: 2}]);
    return drawing(label, axis, ["polyline", {class: "line", points: points.map(place).join(" ")}], ...dots);
  }

  function modelRow(model, names) {
    const overall = model.shares.overall;
    const shares = names.map((name) => model.shares[name]).map((share) => share
      ? cell(percent(share.value), `${share.wins} / ${share.ties} / ${share.losses}`) : cell("–"));
    return make("tr", {}, make("th", {textContent: model.model, scope: "row"}), cell(model.votes),
                overall ? interval(overall.value, overall.ci95) : cell("–"), ...shares,
                cell(number(model.strength, 2), `± ${number(1.96 * model.deviation, 2)}`));
  }

  function raterRow(rater) {
    const blocks = rater.blocks, seconds = blocks.map((block) => block.seconds);
    return make("tr", {}, make("th", {textContent: rater.rater, scope: "row"}),
                cell(rater.votes, rater.skipped ? `${rater.skipped} skipped` : ""), cell(number(rater.seconds, 1)),
                curve(`Median seconds of each block: ${seconds.map((value) => number(value, 1)).join(", ")}`, seconds),
                cell(percent(rater.gold.value), rater.gold.n ? `of ${rater.gold.n}, ${within(rater.gold.ci95)}` : ""),
                curve("Gold accuracy of each block", blocks.map((block) => block.gold.value), 1),
                cell(percent(rater.left.value), within(rater.left.ci95)), cell(percent(rater.undecided.value)));
  }

  async function results() {
    const {ok, told} = await call("/api/summary");
    if (!ok) return notice(told.error || "The results cannot be read.");
    const names = told.dimensions;
    document.title = `Results · ${told.title}`;
    at("title").textContent = told.title;
    at("progress").textContent = `${told.votes} votes on ${told.asked} of ${told.pairs} pairs, ${told.skipped} skipped`;
    const agreement = Object.entries(told.agreement).map(([name, one]) => make(
      "tr", {}, make("th", {textContent: QUESTIONS[name][0], scope: "row"}),
      cell(number(one.value, 2), one.ci95 ? `${number(one.ci95[0], 2)} to ${number(one.ci95[1], 2)}` : ""), cell(one.units)));
    const kappas = told.kappa.map(({raters, kappa, n}) => make(
      "tr", {}, make("th", {textContent: raters.join(" and "), scope: "row"}), cell(number(kappa, 2)), cell(n)));
    at("results").replaceChildren(
      make("h2", {textContent: "Models"}),
      make("p", {className: "muted", textContent: "Share of votes for the model, ties half, with its 95 % interval over " +
        "prompts; below each share, wins / ties / losses. Strength: Bradley–Terry, log-odds."}),
      table(["Model", "Votes", "Over all", ...names.map((name) => QUESTIONS[name][0]), "Strength"],
            told.models.map((model) => modelRow(model, names)), "No models yet."),
      make("h2", {textContent: "Agreement"}),
      make("p", {className: "muted", textContent: "Krippendorff’s alpha over questions with two answers or more (1: " +
        "always, 0: as by chance; a tie is half-way), and Cohen’s kappa of two raters over all."}),
      table(["Question", "Alpha", "Pairs"], agreement, ""),
      table(["Raters", "Kappa", "Pairs"], kappas, "No two raters share enough questions yet."),
      make("h2", {textContent: "Raters"}),
      make("p", {className: "muted", textContent: "Care and fatigue: median seconds per question and gold accuracy, in all " +
        "and in blocks of 20 votes; how often A (left) was chosen where a side was."}),
      table(["Rater", "Votes", "Seconds", "over time", "Gold right", "over time", "Left", "Undecided"],
            told.raters.map(raterRow), "No votes yet."));
    show("results");
  }

  const here = location.pathname === "/results" ? "to-results" : "to-vote";
  at(here).setAttribute("aria-current", "page");
  if (here === "to-results") results();
  else {
    requestAnimationFrame(follow);
    begin();
  }
})();
