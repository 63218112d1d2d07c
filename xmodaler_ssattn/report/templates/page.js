"use strict";
// The list of images and what steers it: filters, switches, pages, keys.
const NEAR = "1200px"; // how far below the screen a card is filled already

ssattn.start = function () {
  ssattn.readView();
  ssattn.showSummary();
  if (!ssattn.data.models.length) return;
  ssattn.listenToWords(document.getElementById("list"));
  document.body.classList.toggle("few", ssattn.few());
  buildToolbar();
  ssattn.refresh();
  addEventListener("hashchange", () => {
    ssattn.readView();
    ssattn.refresh();
  });
  addEventListener("keydown", pressed);
};

// --- the bar -----------------------------------------------------------------------------------------------------

const controls = new Map();

function choice(key, label, options) {
  const { el } = ssattn;
  const select = el("select", { name: key }, options.map(([value, text]) => el("option", { value }, text)));
  select.addEventListener("change", () => change({ [key]: select.value }));
  controls.set(key, select);
  return el("label", {}, el("span", {}, label), select);
}

function entry(key, label, attributes) {
  const { el } = ssattn;
  const input = el("input", { name: key, ...attributes });
  input.addEventListener("input", () => change({ [key]: input.value }));
  controls.set(key, input);
  return el("label", {}, el("span", {}, label), input);
}

function tick(key, label) {
  const { el } = ssattn;
  const box = el("input", { type: "checkbox", name: key });
  box.addEventListener("change", () => change({ [key]: box.checked ? "1" : "" }, true));
  controls.set(key, box);
  return el("label", { class: "tick" }, box, " " + label);
}

function segments(key, label, options) {
  const { el } = ssattn;
  const radios = options.map(([value, text, hint]) => {
    const radio = el("input", { type: "radio", name: key, value });
    radio.addEventListener("change", () => change({ [key]: value }, key !== "caption"));
    return el("label", { title: hint || null }, radio, el("span", {}, text));
  });
  controls.set(key, radios.map((node) => node.firstChild));
  return el("fieldset", { class: "segments" }, el("legend", {}, label), radios);
}

function buildToolbar() {
  const { data, el } = ssattn;
  const names = data.models.map((model, i) => [String(i), model.name]);
  const several = names.length > 1;
  const classes = new Set(data.classes.map((row) => row.class));
  for (const model of data.models) for (const name of Object.values(model.object_words)) classes.add(name);
  const measures = [];
  for (const [what, label, there] of [["cider", "CIDEr", data.cider], ["right", "words right", data.annotated]]) {
    if (there) measures.push(...names.map(([i, name]) => [what + ":" + i, label + ", " + name]));
    if (there && names.length === 2) measures.push([what + ":d", label + ", " + names[1][1] + " − " + names[0][1]]);
  }
  const filters = el("details", { class: "filters", open: innerWidth > 700 }, el("summary", {}, "Filters"), el("div", { class: "row" },
    entry("q", "Search", { type: "search", placeholder: "words or an image id" }),
    choice("class", "Class", [["", "all"], ...[...classes].sort().map((name) => [name, name])]),
    data.annotated ? choice("ground", "With a word", [["", "any"], ["r", "✓ right"], ["w", "✗ wrong"], ["n", "? not judged"]]) : null,
    several ? choice("of", "Said by", [["", "any model"], ...names]) : null,
    several ? choice("differ", "Models differ", [["", "or not"], ["captions", "in words"],
      ...(data.annotated ? [["verdicts", "in right and wrong"], ...names.map(([i, name]) => [i, "only " + name + " is right"])] : [])]) : null,
    measures.length ? [choice("by", "Score", [["", "none"], ...measures]),
      choice("sort", "Order", [["", "as in the file"], ["low", "lowest first"], ["high", "highest first"]]),
      entry("min", "at least", { type: "number", step: "any", class: "short" }), entry("max", "at most", { type: "number", step: "any", class: "short" })] : null,
    el("button", { type: "button", id: "clear" }, "Clear")));
  const looks = el("div", { class: "row looks" },
    segments("show", "At a word", [["box", "box"], ["alpha", "α", "visual attention"], ["beta", "β", "spatial-semantic attention"], ["gamma", "γ", "their sum"]]),
    data.models.some((model) => model.greedy)
      ? segments("caption", "Caption", [["greedy", "greedy", "the caption that grounding is scored on"], ["main", "beam", "the caption that is scored as text"]]) : null,
    segments("boxes", "Boxes", [["all", several ? "all models" : "all words"], ...(several ? names : []), ["none", "none"]]), data.annotated ? tick("truth", "ground truth") : null,
    el("details", { class: "keys" }, el("summary", {}, "Help"), el("div", {},
      several ? el("p", {}, "A box has the colour of its word, and its corner that of its model.") : null,
      data.annotated ? Object.values(ssattn.VERDICTS).map(([mark, meaning]) => el("p", {}, mark + " " + meaning)) : null,
      el("p", {}, "Light over a picture: a region is as bright as its weight at the word, the largest fully."),
      el("p", {}, "Keys: Tab, next object word. ← →, every word. j and k, next and previous image. /, search. 1 to 4, box, α, β, γ. t, ground truth."))));
  document.getElementById("toolbar").append(ssattn.few() ? "" : filters);
  document.getElementById("toolbar").after(looks);
  filters.querySelector("#clear").addEventListener("click", () => {
    ssattn.clearFilters();
    ssattn.refresh();
  });
  if (!data.models.some((model) => model.attention)) {
    for (const radio of controls.get("show")) radio.disabled = radio.value !== "box";
  }
}

function fillControls() {
  for (const [key, control] of controls) {
    const value = ssattn.view[key];
    if (Array.isArray(control)) for (const radio of control) radio.checked = radio.value === value;
    else if (control.type === "checkbox") control.checked = value === "1";
    else if (control.value !== value) control.value = value;
  }
}

// A change of looks draws the cards anew; a change of the selection also lists them anew.
function change(changes, looksOnly) {
  ssattn.setView(changes);
  if (!looksOnly) return ssattn.refresh();
  if ("truth" in changes) {
    for (const card of document.querySelectorAll(".card")) if (card.filled) card.references.open = changes.truth === "1";
  }
  fillControls();
  ssattn.drawCards();
}

// --- the list ----------------------------------------------------------------------------------------------------

let watcher = null;

ssattn.refresh = function () {
  const { data, el, view, plural } = ssattn;
  fillControls();
  const found = ssattn.select();
  const per = Math.max(1, Number(view.per) || 1000);
  const pages = Math.max(1, Math.ceil(found.length / per));
  const page = Math.min(pages, Math.max(1, Math.floor(Number(view.page)) || 1));
  const count = document.getElementById("count");
  count.replaceChildren(found.length === data.images.length ? plural(found.length, "image") : found.length.toLocaleString("en") + " of " + plural(data.images.length, "image"));
  if (view.image !== "") count.append(" · ", el("a", { href: ssattn.hashOf({ ...view, image: "" }) }, "show all"));
  if (pages > 1) count.append(" · page " + page + " of " + pages);
  const cards = found.slice((page - 1) * per, page * per).map(ssattn.emptyCard);
  if (watcher) watcher.disconnect();
  watcher = new IntersectionObserver((entries) => {
    for (const seen of entries) {
      if (seen.isIntersecting) {
        watcher.unobserve(seen.target);
        ssattn.fillCard(seen.target);
      }
    }
  }, { rootMargin: NEAR });
  document.getElementById("list").replaceChildren(...cards);
  for (const card of cards) watcher.observe(card);
  buildPager(page, pages);
};

function buildPager(page, pages) {
  const { el } = ssattn;
  const pager = document.getElementById("pager");
  pager.replaceChildren();
  if (pages < 2) return;
  const go = (number, text) => {
    const button = el("button", { type: "button", disabled: number < 1 || number > pages || number === page, "aria-current": number === page ? "page" : null }, text);
    button.addEventListener("click", () => {
      change({ page: String(number) });
      document.getElementById("toolbar").scrollIntoView();
      document.getElementById("list").focus({ preventScroll: true });
    });
    return button;
  };
  const near = [...new Set([1, page - 1, page, page + 1, pages])].filter((n) => n >= 1 && n <= pages).sort((a, b) => a - b);
  pager.append(go(page - 1, "‹ previous"), ...near.map((n) => go(n, String(n))), go(page + 1, "next ›"));
}

// --- keys --------------------------------------------------------------------------------------------------------

function pressed(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const typing = event.target.matches("input:not([type=radio]):not([type=checkbox]), select, textarea");
  if (typing) return;
  const step = { j: 1, k: -1 }[event.key];
  if (step) move(step);
  else if (event.key === "/" && !ssattn.few()) {
    document.querySelector(".filters").open = true;
    controls.get("q").focus();
  } else if ("1234".includes(event.key)) {
    const radio = controls.get("show")[Number(event.key) - 1];
    if (!radio.disabled) change({ show: radio.value }, true);
  } else if (event.key === "t" && controls.has("truth")) change({ truth: ssattn.view.truth ? "" : "1" }, true);
  else return;
  event.preventDefault();
}

function move(step) {
  const cards = [...document.querySelectorAll(".card")];
  const at = cards.indexOf(document.activeElement.closest(".card"));
  const next = at < 0 ? cards[0] : cards[Math.min(cards.length - 1, Math.max(0, at + step))];
  if (!next) return;
  ssattn.fillCard(next);
  next.focus({ preventScroll: true });
  next.scrollIntoView({ block: "nearest" });
}
