"use strict";
// What is shown, kept in the address after "#", so that a link brings the same view.
const DEFAULTS = {
  q: "", class: "", ground: "", of: "", differ: "", by: "", sort: "", min: "", max: "",
  caption: "greedy", show: "box", boxes: "all", truth: "", per: "1000", page: "1", image: "",
};

ssattn.view = { ...DEFAULTS };

ssattn.readView = function () {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const key of Object.keys(DEFAULTS)) ssattn.view[key] = asked.get(key) ?? DEFAULTS[key];
};

ssattn.hashOf = function (view) {
  const changed = Object.entries(view).filter(([key, value]) => value !== DEFAULTS[key]);
  return "#" + new URLSearchParams(changed).toString();
};

ssattn.writeView = function () {
  if (location.hash.replace(/^#$/, "") !== ssattn.hashOf(ssattn.view).replace(/^#$/, "")) {
    history.replaceState(null, "", ssattn.hashOf(ssattn.view));
  }
};

ssattn.setView = function (changes) {
  // Another selection starts at its first page; a change of looks stays where it is.
  const looks = ["caption", "show", "boxes", "truth", "page"];
  if (Object.keys(changes).some((key) => !looks.includes(key))) ssattn.view.page = "1";
  Object.assign(ssattn.view, changes);
  ssattn.writeView();
};

ssattn.clearFilters = () => {
  const { caption, show, boxes, truth, per } = ssattn.view;
  ssattn.setView({ ...DEFAULTS, caption, show, boxes, truth, per });
};

// --- one image, one model ----------------------------------------------------------------------------------------

// Which caption of a model is shown: the greedy one or the main one, whichever there is.
ssattn.kind = (entry) => (ssattn.view.caption === "greedy" && entry.greedy ? "greedy" : "main");
ssattn.shown = (entry) => entry && entry[ssattn.kind(entry)];

// Whether a model's boxes and weights are shown without a chosen word; boxes is "all", "none" or the number of a model.
ssattn.isShown = (model) => ssattn.view.boxes === String(model) || !(ssattn.view.boxes in ssattn.data.models);

// The object words of a shown caption: [{word: position, class, verdict: "r" | "w" | "n" | undefined}].
ssattn.objects = function (row, model) {
  const caption = ssattn.shown(row.m[model]);
  if (!caption) return [];
  const classes = ssattn.data.models[model].object_words;
  const found = [];
  ssattn.words(caption).forEach((text, word) => {
    if (Object.hasOwn(classes, text)) found.push({ word, class: classes[text], verdict: caption.v[found.length] });
  });
  return found;
};
ssattn.words = (caption) => caption.w || (caption.t === "" ? [] : caption.t.split(" "));

// A number to sort and filter by; null where an image has none. "cider:1", "right:0"; "cider:d" is the second
// model's minus the first's.
ssattn.measure = function (row, name) {
  const [what, who] = name.split(":");
  if (who === "d") {
    const [a, b] = [ssattn.measure(row, what + ":0"), ssattn.measure(row, what + ":1")];
    return a === null || b === null ? null : b - a;
  }
  const model = Number(who);
  const caption = ssattn.shown(row.m[model]);
  if (!caption) return null;
  if (what === "cider") return caption.c ?? null;
  const judged = ssattn.objects(row, model).filter((object) => object.verdict === "r" || object.verdict === "w");
  return judged.length ? judged.filter((object) => object.verdict === "r").length / judged.length : null;
};

// --- filters -----------------------------------------------------------------------------------------------------

function differs(row, how) {
  const captions = row.m.map((entry) => ssattn.shown(entry));
  if (how === "captions") return new Set(captions.map((caption) => (caption ? caption.t : null))).size > 1;
  const right = row.m.map((_, model) => classesWith(row, model, "r"));
  const wrong = row.m.map((_, model) => classesWith(row, model, "w"));
  const better = (a) => [...right[a]].some((name) => wrong.some((others, b) => b !== a && others.has(name) && !right[b].has(name)));
  return how === "verdicts" ? row.m.some((_, model) => better(model)) : better(Number(how));
}

const classesWith = (row, model, verdict) =>
  new Set(ssattn.objects(row, model).filter((object) => object.verdict === verdict).map((object) => object.class));

function keeps(row, view) {
  if (view.image !== "") return String(row.i) === view.image;
  const models = view.of === "" ? row.m.map((_, model) => model) : [Number(view.of)];
  const q = view.q.trim().toLowerCase();
  if (q && String(row.i) !== q && !row.m.some((entry) => entry && ssattn.shown(entry).t.toLowerCase().includes(q))) return false;
  const objects = view.class || view.ground ? models.flatMap((model) => ssattn.objects(row, model)) : [];
  const ofClass = objects.filter((object) => !view.class || object.class === view.class);
  if (view.ground && !ofClass.some((object) => object.verdict === view.ground)) return false;
  if (view.class && !view.ground && !ofClass.length && !(row.k || []).includes(view.class)) return false;
  if (view.differ && !differs(row, view.differ)) return false;
  if (view.by && (view.min !== "" || view.max !== "")) {
    const value = ssattn.measure(row, view.by);
    if (value === null) return false;
    if (view.min !== "" && 100 * value < Number(view.min)) return false;
    if (view.max !== "" && 100 * value > Number(view.max)) return false;
  }
  return true;
}

// Positions of the images that pass, in the order asked for; images without the number come last.
ssattn.select = function () {
  const { images } = ssattn.data;
  const { view } = ssattn;
  const found = [];
  images.forEach((row, position) => { if (keeps(row, view)) found.push(position); });
  if (view.by && view.sort) {
    const sign = view.sort === "low" ? 1 : -1;
    const value = new Map(found.map((position) => [position, ssattn.measure(images[position], view.by)]));
    found.sort((a, b) => {
      const [x, y] = [value.get(a), value.get(b)];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  }
  return found;
};
