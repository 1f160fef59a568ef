"use strict";
/* The table: sorted, filtered, one page of rows at a time. */
(() => {
  const {el, metrics, rows, score, rank, better, format, interval} = Site;
  const PAGE = 50, FIRST_COLUMNS = 5;
  const narrow = matchMedia("(max-width: 44rem)");
  const ranking = Site.byMetric.get(BOARD.rank_by);
  const initial = [...metrics.keys()].sort((a, b) => (b === ranking) - (a === ranking) || (metrics[b].weight > 0) -
    (metrics[a].weight > 0) || a - b).slice(0, FIRST_COLUMNS);
  const state = {sort: "rank", reverse: false, query: "", page: 0, columns: new Set(initial), picked: [],
                 references: true, withdrawn: false, verified: false, pareto: false};
  const places = {table: el("div"), pager: el("div", {class: "pager"}), sorting: el("span"),
                  picked: el("span"), count: el("p", {class: "muted", role: "status"})};

  function columns() {
    const chosen = [...metrics.keys()].filter((index) => state.columns.has(index));
    if (!narrow.matches) return chosen;
    return typeof state.sort === "number" ? [state.sort] : ranking == null ? [] : [ranking];
  }

  function ordered() {
    const query = state.query.trim().toLowerCase();
    const kept = rows.filter((row) => (state.references || row.kind !== "reference") &&
      (state.withdrawn || row.status !== "withdrawn") && (!state.verified || row.status === "verified") &&
      (!state.pareto || row.pareto) && row.name.toLowerCase().includes(query));
    const sign = state.reverse ? -1 : 1;
    if (typeof state.sort === "number") return kept.sort(better(state.sort, state.reverse));
    if (state.sort === "name") return kept.sort((a, b) => sign * a.name.localeCompare(b.name));
    if (state.sort === "submitted") {  // newest first
      return kept.sort((a, b) => sign * ((a.submitted < b.submitted) - (a.submitted > b.submitted)));
    }
    const ranked = kept.filter((row) => row.rank);  // the board's order: best first
    return [...(state.reverse ? ranked.reverse() : ranked), ...kept.filter((row) => !row.rank)];
  }

  function sortBy(key) {
    state.reverse = state.sort === key && !state.reverse;
    state.sort = key;
    state.page = 0;
    draw();
  }

  function head(key, text, kind = "", title = "") {
    const active = state.sort === key;
    const down = typeof key === "number" && metrics[key].higher;
    const sorted = active && (down !== state.reverse ? "descending" : "ascending");
    return el("th", {scope: "col", class: kind, "aria-sort": sorted || null},
      el("button", {type: "button", title, onclick: () => sortBy(key), "data-sort": key}, text));
  }

  /** What ranks, where that is no column: a composite, or the strength over wins. */
  function strength(row) {
    const [value, low, high] = row.strength;
    if (value == null) return el("td", {class: "score null", title: row.unranked}, "–");
    return el("td", {class: "score", title: `95 %: ${interval({low, high})}`}, format(value), Site.bar({value, low, high}, span));
  }

  const ends = rows.filter((row) => row.rank).flatMap((row) => row.strength).filter((end) => end != null);
  const span = ends.length ? [Math.min(...ends), Math.max(...ends)] : [0, 1];
  const showStrength = () => BOARD.strength && (!narrow.matches || typeof state.sort !== "number");

  function cell(row, index) {
    const found = score(row, index);
    if (found.value == null) return el("td", {class: "score null", title: found.reason}, "no number");
    return el("td", {class: "score", title: `95 %: ${interval(found) || "too few for one"}; n = ${found.n}`},
      format(found.value), Site.bar(found, Site.axis(index)));
  }

  function line(row) {
    const pick = el("input", {type: "checkbox", "aria-label": `compare ${row.name}`, checked: state.picked.includes(row.slug),
                              onchange: (event) => choose(row.slug, event.target.checked)});
    return el("tr", {class: `${row.kind} ${row.status}`, "data-slug": row.slug},
      el("td", {class: "pick"}, pick),
      el("td", {class: "rank", title: row.unranked || "95 % range of the rank, over all rows at once"}, rank(row)),
      el("th", {scope: "row", class: "name"}, Site.modelLink(row), " ", Site.badges(row)),
      showStrength() && strength(row), columns().map((index) => cell(row, index)));
  }

  /** The two rows ticked last are compared. */
  function choose(slug, on) {
    state.picked = [...state.picked.filter((other) => other !== slug), ...(on ? [slug] : [])].slice(-2);
    draw();
    document.querySelector(`tr[data-slug="${CSS.escape(slug)}"] input`)?.focus();
  }

  function draw() {
    const found = ordered(), pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const shown = found.slice(state.page * PAGE, (state.page + 1) * PAGE);
    const focused = document.activeElement?.dataset?.sort;
    places.table.replaceChildren(el("div", {class: "scroll"}, el("table", {class: "board"},
      el("thead", {}, el("tr", {}, el("th", {scope: "col", class: "pick"}, el("span", {title: "compare two"}, "⇄")),
        head("rank", "rank"), head("name", "name", "name"),
        showStrength() && el("th", {scope: "col", class: "score"}, `${BOARD.strength} ↑`),
        columns().map((index) => head(index, [Site.breakable(metrics[index].name), ` ${Site.arrow(metrics[index])}`], "score",
                                      `${Site.direction(metrics[index])}. ${metrics[index].summary}`)))),
      el("tbody", {}, shown.map(line)))));
    if (focused) places.table.querySelector(`[data-sort="${focused}"]`)?.focus();
    const turn = (step, text) => el("button", {type: "button", disabled: !pages || state.page + step < 0 ||
      state.page + step >= pages, onclick: () => { state.page += step; draw(); }}, text);
    places.pager.replaceChildren(...(pages > 1 ? [turn(-1, "← Previous"),
      el("span", {class: "muted"}, `page ${state.page + 1} of ${pages}`), turn(1, "Next →")] : []));
    places.count.textContent = `${found.length} of ${rows.length} rows`;
    const [a, b] = state.picked;
    places.picked.replaceChildren(b ? el("a", {class: "button", id: "compare", href: `compare.html#${a},${b}`},
      "Compare the two ticked") : el("span", {class: "muted"}, "Tick two rows to compare them."));
    places.sorting.replaceChildren(sorting());
  }

  function sorting() {
    return Site.choice("Sort by", state.sort, [["rank", "rank"], ["name", "name"], ["submitted", "newest"],
      ...metrics.map((metric, index) => [index, `${metric.name} ${Site.arrow(metric)}`])],
    (value) => { state.reverse = false; state.sort = /^\d+$/.test(value) ? Number(value) : value; state.page = 0; draw(); });
  }

  function tick(key, text) {
    return el("label", {}, el("input", {type: "checkbox", checked: state[key], onchange: (event) => {
      state[key] = event.target.checked;
      state.page = 0;
      draw();
    }}), text);
  }

  function chooser() {
    const boxes = metrics.map((metric, index) => el("label", {}, el("input", {
      type: "checkbox", checked: state.columns.has(index), onchange: (event) => {
        state.columns[event.target.checked ? "add" : "delete"](index);
        draw();
      }}), ` ${metric.name}`));
    return el("details", {class: "columns"}, el("summary", {}, `Columns (${metrics.length})`),
      el("div", {class: "choices"}, boxes));
  }

  const downloads = () => el("span", {class: "muted"}, "All numbers: ", [["csv", "CSV"], ["parquet", "Parquet"], ["json", "JSON"]]
    .map(([ending, text], i) => [i > 0 && ", ", el("a", {href: `board.${ending}`, download: true}, text)]));

  const search = el("input", {type: "search", id: "search", placeholder: "name", oninput: (event) => {
    state.query = event.target.value;
    state.page = 0;
    draw();
  }});
  Site.show(
    el("h1", {}, BOARD.title), BOARD.summary && el("p", {}, BOARD.summary),
    el("p", {class: "muted"}, `Ranked by ${BOARD.rank_words}. A rank such as 2–5 is the range of the true rank: 95 % for all `,
      "rows at once. Bars: 95 % intervals, on an axis from the lowest to the highest of the models. Reference rows are ",
      "videos without a model (frozen, noise, real) and take no rank."),
    el("div", {class: "controls"}, el("label", {}, "Filter", search), places.sorting,
      tick("verified", "verified only"), tick("pareto", "Pareto only"), tick("references", "reference rows"),
      rows.some((row) => row.status === "withdrawn") && tick("withdrawn", "withdrawn")),
    !narrow.matches && chooser(), el("div", {class: "controls"}, places.picked, places.count, downloads()), places.table, places.pager);
  narrow.addEventListener("change", draw);
  draw();
  document.documentElement.dataset.ready = "1";
})();
