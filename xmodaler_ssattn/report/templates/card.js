"use strict";
// One image: its picture with the boxes of all models or of one, each model's caption as words, references on demand.
const MOST_HEIGHT = 420;
ssattn.VERDICTS = {
  r: ["✓", "right: overlaps by more than half with an annotated box of its class"],
  w: ["✗", "wrong: the boxes of its class are elsewhere"],
  n: ["?", "not judged: no box of its class is annotated in the image"],
};

ssattn.nameOf = (row) => row.n || String(row.i);

// An empty card that keeps the place; ssattn.fillCard gives it content when it comes near.
ssattn.emptyCard = function (position) {
  const row = ssattn.data.images[position];
  return ssattn.el("article", { class: "card", "data-position": position, id: "image-" + row.i, tabindex: -1, "aria-label": "Image " + ssattn.nameOf(row) });
};

ssattn.fillCard = function (card) {
  if (card.filled) return;
  card.filled = true;
  const { data, el, svg, view } = ssattn;
  const position = Number(card.dataset.position);
  const row = data.images[position];
  card.row = row;
  card.size = row.s;
  card.chosen = null; // the word under the mouse or the keyboard: {model, word}
  card.classes = classColours(row);
  card.overlay = svg("svg", { class: "overlay", preserveAspectRatio: "none", "aria-hidden": "true" });
  card.frame = el("div", { class: "frame" + (row.p ? "" : " blank") });
  setSize(card, row.s || [4, 3]);
  if (row.p) card.frame.append(buildPicture(card));
  card.frame.append(card.overlay);
  card.reading = el("p", { class: "reading", role: "status" });
  card.said = row.m.map((_, model) => buildCaption(card, model));
  card.references = el("details", { class: "references", open: Boolean(view.truth) },
    el("summary", {}, row.k ? "References and ground truth" : "No references for this image"));
  card.references.addEventListener("toggle", () => drawCard(card));
  card.replaceChildren(
    el("h3", {}, el("a", { href: ssattn.hashOf({ ...view, image: String(row.i) }) }, ssattn.nameOf(row))),
    card.frame, ...card.said, card.reading, ...(data.annotated ? [card.references] : []));
  drawCard(card);
  ssattn.details(position, (details) => {
    card.details = details;
    if (details && details.references) card.references.append(buildReferences(card, details.references));
    drawCard(card);
  });
};

// Class -> colour, in the order in which captions and annotations name them: one class, one colour, in all models.
function classColours(row) {
  const { word_colours: colours } = ssattn.data;
  const names = row.m.flatMap((_, model) => ssattn.objects(row, model).map((object) => object.class));
  return new Map([...new Set([...names, ...(row.k || [])])].map((name, i) => [name, colours[i % colours.length]]));
}

// The frame has the picture's shape, and tall ones are not taller than the screen.
function setSize(card, [width, height]) {
  const most = ssattn.few() ? 0.8 * innerHeight : MOST_HEIGHT;
  card.frame.style.aspectRatio = width + " / " + height;
  card.frame.style.maxWidth = Math.round((most * width) / height) + "px";
  card.overlay.setAttribute("viewBox", "0 0 " + width + " " + height);
}

function buildPicture(card) {
  const { row } = card;
  const picture = ssattn.el("img", { src: row.p, alt: "Image " + ssattn.nameOf(row), loading: "lazy", decoding: "async" });
  picture.addEventListener("load", () => {
    // Without a size in the data the picture's own decides; with one, a picture of another shape is said to be so.
    const { naturalWidth: width, naturalHeight: height } = picture;
    if (!card.size) {
      card.size = [width, height];
      setSize(card, card.size);
      drawCard(card);
    } else if (Math.abs(width / height - card.size[0] / card.size[1]) > 0.02) {
      card.reading.textContent = "This picture is " + width + " × " + height + ", its boxes are for " + card.size.join(" × ") + ".";
    }
  });
  picture.addEventListener("error", () => {
    card.frame.classList.add("blank");
    picture.remove();
    drawCard(card);
  });
  return picture;
}

function buildCaption(card, model) {
  const { data, el } = ssattn;
  const scores = scoresText(card.row, model);
  const who = data.models.length > 1 || scores
    ? el("p", { class: "who" }, ssattn.swatch(model), el("strong", {}, data.models[model].name), el("small", { class: "scores" }, scores)) : null;
  return el("div", { class: "said", "data-model": model }, who, el("p", { class: "caption" }, captionWords(card, model)));
}

function captionWords(card, model) {
  const { el } = ssattn;
  const caption = ssattn.shown(card.row.m[model]);
  if (!caption) return [el("em", {}, "no caption from this model")];
  if (caption.t === "") return [el("em", {}, "(empty caption)")];
  const objects = new Map(ssattn.objects(card.row, model).map((object) => [object.word, object]));
  return ssattn.words(caption).flatMap((text, word) => {
    const object = objects.get(word);
    const [mark, meaning] = (object && ssattn.VERDICTS[object.verdict]) || ["", ""];
    const node = el("span", {
      class: object ? "word object" : "word", role: "button", tabindex: object ? 0 : -1, "data-word": word,
      "aria-label": object && meaning ? text + ", " + meaning : null, title: meaning || null,
      "data-class": object ? object.class : null, "data-verdict": (object && object.verdict) || null,
    }, text, mark ? el("sup", { "aria-hidden": "true" }, mark) : null);
    if (object) node.style.setProperty("--colour", card.classes.get(object.class));
    return [node, " "];
  });
}

function scoresText(row, model) {
  const caption = ssattn.shown(row.m[model]);
  if (!caption) return "";
  const judged = ssattn.objects(row, model).filter((object) => "rw".includes(object.verdict || "-"));
  const right = judged.filter((object) => object.verdict === "r").length;
  return [caption.c === undefined ? "" : "CIDEr " + ssattn.percent(caption.c),
    judged.length ? right + " of " + judged.length + " right" : ""].filter(Boolean).join(" · ");
}

// --- drawing -----------------------------------------------------------------------------------------------------

ssattn.drawCards = () => {
  for (const card of document.querySelectorAll(".card")) if (card.filled) drawCard(card);
};

// What a model says about an image: {model, caption, grounding, regions, objects}; grounding is null until it is loaded.
function saidBy(card, model) {
  const entry = card.row.m[model];
  const stored = card.details && card.details.models && card.details.models[model];
  return { model, entry, regions: stored && stored.regions, grounding: (entry && stored && stored[ssattn.kind(entry)]) || null, objects: ssattn.objects(card.row, model) };
}

function drawCard(card) {
  const { view } = ssattn;
  const { chosen } = card;
  const all = card.row.m.map((_, model) => saidBy(card, model));
  const seen = all.filter(({ model }) => (chosen ? chosen.model === model : ssattn.isShown(model)));
  const size = card.size || (card.row.p ? null : extent(all));
  if (!card.size && size) setSize(card, size);
  const layers = [];
  // α, β, γ are those of the chosen word's model, else (β needs no word) of the first shown model that has them.
  const word = chosen ? chosen.word : null;
  const weighted = view.show === "box" || !size ? [] : seen.map((said) => [said, ssattn.weights(said, view.show, word)]);
  const [lit, weights] = weighted.find(([, found]) => found) || [seen[0], null];
  if (weights) layers.push(ssattn.veil("veil-" + card.row.i, size, lit.regions, weights));
  const active = chosen && lit ? lit.objects.find((object) => object.word === word) : null;
  layers.push(...truthBoxes(card, active));
  for (const said of seen.filter(({ grounding }) => grounding && grounding.boxes)) {
    if (chosen) layers.push(boxOf(card, said, active || { word }, "box active"));
    else if (!card.phrase && view.boxes !== "none") layers.push(...said.objects.map((object) => boxOf(card, said, object, "box")));
  }
  card.overlay.replaceChildren(...layers);
  if (size && card.frame.classList.contains("blank")) nameBoxes(card.overlay, size);
  if (lit && (chosen || view.show !== "box")) card.reading.textContent = readingOf(lit, word, weights, active);
  else if (!card.reading.textContent.startsWith("This picture")) card.reading.textContent = "";
}

// On a blank frame a box says what it is.
function nameBoxes(overlay, size) {
  for (const rect of overlay.querySelectorAll("rect[data-class]")) {
    const [x, y, height] = ["x", "y", "height"].map((name) => Number(rect.getAttribute(name)));
    const letters = Math.min(...size) / 24;
    const down = rect.classList.contains("truth") ? height - letters / 3 : 1.1 * letters;
    rect.after(ssattn.svg("text", { x: x + letters / 3, y: y + down, "font-size": letters }, rect.dataset.class));
  }
}

// Without any known size the boxes themselves say how large the frame must be.
function extent(all) {
  const boxes = all.flatMap(({ regions, grounding }) => [...(regions || []), ...((grounding && grounding.boxes) || [])]);
  return boxes.length ? [Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3]))] : null;
}

// A light line under the coloured one, so that the box is seen on any picture.
function rectangle([x1, y1, x2, y2], colour, attributes, ...more) {
  const { svg } = ssattn;
  const where = { x: x1, y: y1, width: Math.max(0, x2 - x1).toFixed(1), height: Math.max(0, y2 - y1).toFixed(1) };
  return svg("g", {}, svg("rect", { ...where, class: "halo" }), svg("rect", { ...where, ...attributes, stroke: colour }), ...more);
}

// A box in the colour of its word; of several models, with a mark in the colour of its model in the upper right corner.
function boxOf(card, { model, grounding }, object, kind) {
  const box = grounding.boxes[object.word];
  const side = Math.max(...(card.size || [400])) / 40;
  const mark = ssattn.data.models.length > 1
    ? ssattn.svg("rect", { class: "mark", x: box[2] - (model + 1) * side, y: box[1], width: side, height: side, fill: ssattn.colour(model) }) : null;
  return rectangle(box, card.classes.get(object.class) || "#444",
    { class: kind, "data-model": model, "data-word": object.word, "data-class": object.class }, mark);
}

// The annotated boxes: of the phrase under the mouse, else, on demand, of the chosen word's class or of all.
function truthBoxes(card, active) {
  const dashed = (name, box) => rectangle(box, card.classes.get(name) || "#444", { class: "truth", "data-class": name });
  if (card.phrase) return card.phrase.boxes.map((box) => dashed(card.phrase.class, box));
  if (!ssattn.view.truth && !card.references.open) return [];
  const phrases = ((card.details && card.details.references) || []).flatMap((reference) => reference.phrases)
    .filter((phrase) => phrase.class && (!card.chosen || (active && phrase.class === active.class)));
  const boxes = new Map(phrases.flatMap((phrase) => phrase.boxes.map((box) => [phrase.class + box, [phrase.class, box]])));
  return [...boxes.values()].map(([name, box]) => dashed(name, box));
}

function readingOf({ model, grounding }, word, weights, active) {
  const { LETTERS, VERDICTS, data, view } = ssattn;
  const letter = LETTERS[view.show];
  const meaning = active && VERDICTS[active.verdict] ? "; " + VERDICTS[active.verdict][1] : "";
  const tell = () => {
    if (!grounding) return "this caption has no boxes";
    if (!letter) return "region " + grounding.regions[word] + ", weight " + grounding.weights[word].toFixed(2) + meaning;
    if (!grounding.attention) return "saved without attention";
    if (!grounding.attention[view.show]) return "this model has no " + letter;
    if (!weights) return "choose a word to see its " + letter;
    const best = weights.indexOf(Math.max(...weights));
    const chosen = word === null ? "" : "; chosen: region " + grounding.regions[word];
    return letter + " is largest at region " + best + ": " + weights[best].toFixed(2) + chosen + meaning;
  };
  return (data.models.length > 1 ? data.models[model].name + ": " : "") + tell();
}

// --- references --------------------------------------------------------------------------------------------------

function buildReferences(card, references) {
  const { el } = ssattn;
  return el("ol", {}, references.map((reference) => {
    if (!reference.tokens.length) return el("li", {}, reference.raw);
    const starts = new Map(reference.phrases.map((phrase) => [phrase.start, phrase]));
    const parts = [];
    for (let i = 0; i < reference.tokens.length; i++) {
      const phrase = starts.get(i);
      if (!phrase) {
        parts.push(reference.tokens[i], " ");
        continue;
      }
      const node = el("span", { class: phrase.class ? "phrase object" : "phrase", role: "button", tabindex: 0 },
        reference.tokens.slice(i, phrase.end).join(" "));
      if (phrase.class) node.style.setProperty("--colour", card.classes.get(phrase.class));
      node.phrase = phrase;
      parts.push(node, " ");
      i = Math.max(i, phrase.end - 1);
    }
    return el("li", { title: reference.raw }, parts);
  }));
}

// --- words under the mouse, the finger or the keyboard --------------------------------------------------------------

function choose(node, on) {
  const card = node.closest(".card");
  if (node.phrase) card.phrase = on ? node.phrase : null;
  else {
    card.chosen = on ? { model: Number(node.closest(".said").dataset.model), word: Number(node.dataset.word) } : null;
    for (const other of card.querySelectorAll(".word")) other.classList.toggle("active", on && other === node);
  }
  drawCard(card);
}

ssattn.listenToWords = function (list) {
  const wordOf = (event) => event.target.closest && event.target.closest(".word, .phrase");
  list.addEventListener("mouseover", (event) => { const node = wordOf(event); if (node) choose(node, true); });
  list.addEventListener("mouseout", (event) => {
    const node = wordOf(event);
    if (!node || node.contains(event.relatedTarget)) return;
    choose(node, false);
    // The word that has the keyboard keeps its box when the mouse has passed.
    const focused = document.activeElement;
    if (focused !== node && focused.matches(".word, .phrase") && focused.closest(".card") === node.closest(".card")) choose(focused, true);
  });
  list.addEventListener("focusin", (event) => { const node = wordOf(event); if (node) choose(node, true); });
  list.addEventListener("focusout", (event) => { const node = wordOf(event); if (node) choose(node, false); });
  list.addEventListener("keydown", (event) => {
    const node = wordOf(event);
    if (!node || (event.key !== "ArrowRight" && event.key !== "ArrowLeft")) return;
    const words = [...node.parentNode.querySelectorAll(".word, .phrase")];
    const next = words[words.indexOf(node) + (event.key === "ArrowRight" ? 1 : -1)];
    if (next) next.focus();
    event.preventDefault();
  });
};
