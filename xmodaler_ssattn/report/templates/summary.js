"use strict";
// Above the pictures: title, notices, the table of scores, the classes.
const CLASSES_SHOWN = 12;

ssattn.showSummary = function () {
  const { data, el, plural } = ssattn;
  const count = data.images.length;
  const names = data.models.map((m) => m.name + (m.epoch !== null && m.epoch >= 0 ? " (epoch " + m.epoch + ")" : ""));
  const parts = [data.splits.join(", "), data.models.length ? plural(count, "image") : "", names.join(" · ")];
  document.getElementById("subtitle").append(parts.filter(Boolean).join(" · "));
  if (data.notices.length) {
    document.getElementById("notices").append(
      el("details", { class: "notice", open: data.notices.length < 7 },
        el("summary", {}, plural(data.notices.length, "note")),
        el("ul", {}, data.notices.map((text) => el("li", {}, text)))));
  }
  const place = document.getElementById("summary");
  if (data.scores.length) place.append(scoreSection());
  if (data.classes.length) place.append(classSection());
};

function scoreSection() {
  const { data, el } = ssattn;
  const main = data.scores.slice(0, data.main_scores);
  const rest = data.scores.slice(data.main_scores);
  const note = data.replicates && data.scores.some((row) => row.intervals.some(Boolean))
    ? "In percent. Small numbers: 95 % interval, " + data.replicates.toLocaleString("en") + " resamples of the images"
      + (data.scores.some((row) => row.comparison) ? ", the same for both models in the difference." : ".")
    : "In percent.";
  return el("section", { id: "scores", "aria-labelledby": "scores-title" },
    el("h2", { id: "scores-title" }, "Scores"), el("p", { class: "hint" }, note), scoreTable(main.length ? main : rest),
    main.length && rest.length ? el("details", {}, el("summary", {}, rest.length + " more scores"), scoreTable(rest)) : null);
}

function scoreTable(rows) {
  const { data, el, percent } = ssattn;
  const compared = rows.some((row) => row.comparison);
  const reach = Math.max(1e-9, ...rows.filter((row) => row.comparison)
    .flatMap(({ comparison: c }) => [c.low, c.high, c.difference].map((v) => Math.abs(v ?? 0))));
  const head = el("tr", {}, el("th", { scope: "col" }, el("span", { class: "hidden" }, "Score")),
    data.models.map((model) => el("th", { scope: "col" }, model.name)),
    compared ? el("th", { scope: "col", colspan: 2 }, data.models[1].name + " − " + data.models[0].name) : null);
  const body = rows.map((row) => el("tr", { "data-score": row.name }, el("th", { scope: "row" }, row.label),
    row.values.map((value, i) => el("td", { "data-label": data.models[i].name }, percent(value), spread(row.intervals[i]))),
    compared ? differenceCells(row.comparison, reach) : null));
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Table of scores" },
    el("table", {}, el("thead", {}, head), el("tbody", {}, body)));
}

const spread = (interval) =>
  interval && interval[0] !== null
    ? ssattn.el("small", {}, ssattn.percent(interval[0]) + " to " + ssattn.percent(interval[1])) : null;

function differenceCells(c, reach) {
  const { el, svg, percent } = ssattn;
  if (!c) return [el("td", {}), el("td", {})];
  const x = (value) => (60 + (55 * value) / reach).toFixed(1);
  const clear = c.low > 0 || c.high < 0;
  const picture = svg("svg", { viewBox: "0 0 120 16", class: "whisker" + (clear ? " clear" : ""), "aria-hidden": "true" },
    svg("line", { class: "zero", x1: 60, x2: 60, y1: 0, y2: 16 }),
    svg("line", { class: "range", x1: x(c.low ?? 0), x2: x(c.high ?? 0), y1: 8, y2: 8 }),
    svg("circle", { cx: x(c.difference), cy: 8, r: 3.5 }));
  const p = c.p === null ? "" : c.p < 0.001 ? ", p < 0.001" : ", p = " + c.p.toFixed(3);
  const text = (c.difference > 0 ? "+" : "") + percent(c.difference);
  return [el("td", { "data-label": "difference" }, text, el("small", {}, percent(c.low) + " to " + percent(c.high) + p)), el("td", {}, picture)];
}

function classSection() {
  const { data, el } = ssattn;
  const rows = data.classes.map(classRow);
  const rest = rows.splice(CLASSES_SHOWN);
  const legend = el("ul", { class: "legend" },
    data.models.map((model, i) => el("li", {}, ssattn.swatch(i), model.name)));
  return el("section", { id: "classes", "aria-labelledby": "classes-title" },
    el("h2", { id: "classes-title" }, "Classes"),
    el("p", { class: "hint" }, "Grounding F1 (mode all) and the number of annotated words; choose a class to see its images."),
    legend, el("ul", { class: "bars" }, rows),
    rest.length ? el("details", {}, el("summary", {}, rest.length + " more classes"), el("ul", { class: "bars" }, rest)) : null);
}

function classRow(row) {
  const { el, percent } = ssattn;
  const bars = row.models.map((values, i) => {
    // F1 of precision 0 and recall 0 is 0/0: words were said and annotated, none was right.
    const f1 = values && values.F1 === null && values.precision === 0 && values.recall === 0 ? 0 : values && values.F1;
    const bar = ssattn.swatch(i, "bar");
    bar.style.width = 100 * (f1 || 0) + "%";
    return el("span", { class: "track" }, bar, el("b", {}, percent(f1)));
  });
  const button = el("button", { type: "button", "data-class": row.class }, row.class, el("small", {}, String(row.annotations)));
  button.addEventListener("click", () => {
    ssattn.setView({ class: row.class, image: "" });
    ssattn.refresh();
    document.getElementById("toolbar").scrollIntoView();
  });
  return el("li", {}, button, el("span", { class: "tracks" }, bars));
}
