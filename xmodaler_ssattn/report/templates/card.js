"use strict";
// One image: for each model the picture with its boxes, the caption as words; below, references on demand.
const MOST_HEIGHT = 420;
ssattn.VERDICTS = {
  r: ["✓", "right: overlaps by more than half with an annotated box of its class"],
  w: ["✗", "wrong: the boxes of its class are elsewhere"],
  n: ["?", "not judged: no box of its class is annotated in the image"],
};

// An empty card that keeps the place; ssattn.fillCard gives it content when it comes near.
ssattn.emptyCard = (position) =>
  ssattn.el("article", { class: "card", "data-position": position, id: "image-" + ssattn.data.images[position].i, tabindex: -1,
    "aria-label": "Image " + ssattn.data.images[position].i });

ssattn.fillCard = function (card) {
  if (card.filled) return;
  card.filled = true;
  const { data, el, view } = ssattn;
  const position = Number(card.dataset.position);
  const row = data.images[position];
  card.row = row;
  card.classes = classColours(row);
  card.figures = row.m.map((_, model) => buildFigure(card, model));
  card.references = el("details", { class: "references", open: Boolean(view.truth) },
    el("summary", {}, row.k ? "References and ground truth" : "No references for this image"));
  card.references.addEventListener("toggle", () => drawCard(card));
  card.replaceChildren(
    el("h3", {}, el("a", { href: ssattn.hashOf({ ...view, image: String(row.i) }) }, String(row.i))),
    el("div", { class: "figures" }, card.figures.map((figure) => figure.node)), card.references);
  drawCard(card);
  ssattn.details(position, (details) => {
    card.details = details;
    if (details && details.references) card.references.append(buildReferences(card, details.references));
    drawCard(card);
  });
};

// Class -> colour, in the order in which captions and annotations name them: one class, one colour, in all models.
function classColours(row) {
  const names = row.m.flatMap((_, model) => ssattn.objects(row, model).map((object) => object.class));
  return new Map([...new Set([...names, ...(row.k || [])])].map((name, i) => [name, ssattn.colour(i)]));
}

function buildFigure(card, model) {
  const { el, svg, data } = ssattn;
  const { row } = card;
  const size = row.s || [4, 3];
  const overlay = svg("svg", { class: "overlay", viewBox: "0 0 " + size[0] + " " + size[1], preserveAspectRatio: "none", "aria-hidden": "true" });
  const frame = el("div", { class: "frame" + (row.p ? "" : " blank") });
  shape(frame, size);
  const figure = { model, overlay, word: null, size: row.s, reading: el("p", { class: "reading", role: "status" }) };
  if (row.p) {
    const picture = el("img", { src: row.p, alt: "Image " + row.i, loading: "lazy", decoding: "async", width: size[0], height: size[1] });
    picture.addEventListener("load", () => checkSize(card, figure, frame, picture));
    picture.addEventListener("error", () => {
      frame.classList.add("blank");
      picture.remove();
    });
    frame.append(picture);
  }
  frame.append(overlay);
  const caption = el("p", { class: "caption" }, captionWords(card, figure));
  figure.frame = frame;
  figure.caption = caption;
  figure.scores = el("small", { class: "scores" }, scoresText(row, model));
  figure.node = el("figure", { "data-model": model }, frame,
    el("figcaption", {}, el("div", { class: "who" }, el("i", { class: "swatch model" + (model % 6) }), el("strong", {}, data.models[model].name), figure.scores),
      caption, figure.reading));
  return figure;
}

// The frame has the picture's shape, and tall ones are not taller than the screen.
function shape(frame, [width, height]) {
  frame.style.aspectRatio = width + " / " + height;
  frame.style.maxWidth = Math.round((MOST_HEIGHT * width) / height) + "px";
}

// Without a size in the data the picture's own decides; with one, a picture of another shape is said to be so.
function checkSize(card, figure, frame, picture) {
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (!figure.size) {
    figure.size = [width, height];
    figure.overlay.setAttribute("viewBox", "0 0 " + width + " " + height);
    shape(frame, figure.size);
    drawFigure(card, figure);
  } else if (Math.abs(width / height - figure.size[0] / figure.size[1]) > 0.02) {
    figure.reading.textContent = "This picture is " + width + " × " + height + ", its boxes are for " + figure.size.join(" × ") + ".";
  }
}

function captionWords(card, figure) {
  const { el } = ssattn;
  const caption = ssattn.shown(card.row.m[figure.model]);
  if (!caption) return [el("em", {}, "no caption from this model")];
  if (caption.t === "") return [el("em", {}, "(empty caption)")];
  const objects = new Map(ssattn.objects(card.row, figure.model).map((object) => [object.word, object]));
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

function drawCard(card) {
  for (const figure of card.figures) drawFigure(card, figure);
}

function drawFigure(card, figure) {
  const { view } = ssattn;
  const { overlay, word } = figure;
  const layers = [];
  const entry = card.row.m[figure.model];
  const grounding = card.details && card.details.models && card.details.models[figure.model];
  const caption = grounding && entry && grounding[ssattn.kind(entry)];
  const objects = entry ? ssattn.objects(card.row, figure.model) : [];
  const size = figure.size || extent(grounding, caption);
  if (!figure.size && size && !card.row.p) {
    overlay.setAttribute("viewBox", "0 0 " + size[0] + " " + size[1]);
    shape(figure.frame, size);
  }
  const weights = view.show === "box" || !size ? null : ssattn.weights(grounding || {}, caption, view.show, word);
  if (weights) layers.push(ssattn.veil("veil-" + card.row.i + "-" + figure.model, size, grounding.regions, weights));
  const active = objects.find((object) => object.word === word);
  if (card.phrase) layers.push(...truthBoxes(card, card.phrase.boxes.map((box) => [card.phrase.class, box])));
  else if (view.truth || card.references.open) {
    const all = (card.details && card.details.references) || [];
    const wanted = (phrase) => phrase.class && (word === null || (active && phrase.class === active.class));
    const boxes = new Map(all.flatMap((reference) => reference.phrases.filter(wanted)
      .flatMap((phrase) => phrase.boxes.map((box) => [phrase.class + box, [phrase.class, box]]))));
    layers.push(...truthBoxes(card, [...boxes.values()]));
  }
  if (caption && caption.boxes) {
    if (word !== null) layers.push(boxOf(card, caption, word, active, "box active"));
    else if (view.boxes && !card.phrase) layers.push(...objects.map((object) => boxOf(card, caption, object.word, object, "box")));
  }
  overlay.replaceChildren(...layers);
  if (size && figure.frame.classList.contains("blank")) nameBoxes(overlay, size);
  if (word !== null || view.show !== "box") figure.reading.textContent = readingOf(caption, figure, weights, active);
  else if (!figure.reading.textContent.startsWith("This picture")) figure.reading.textContent = "";
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
function extent(grounding, caption) {
  const boxes = [...((grounding && grounding.regions) || []), ...((caption && caption.boxes) || [])];
  return boxes.length ? [Math.max(...boxes.map((box) => box[2])), Math.max(...boxes.map((box) => box[3]))] : null;
}

// A light line under the coloured one, so that the box is seen on any picture.
function rectangle([x1, y1, x2, y2], colour, attributes) {
  const { svg } = ssattn;
  const where = { x: x1, y: y1, width: Math.max(0, x2 - x1).toFixed(1), height: Math.max(0, y2 - y1).toFixed(1) };
  return svg("g", {}, svg("rect", { ...where, class: "halo" }), svg("rect", { ...where, ...attributes, stroke: colour }));
}

const boxOf = (card, caption, word, object, kind) =>
  rectangle(caption.boxes[word], object ? card.classes.get(object.class) : "#444", { class: kind, "data-word": word, "data-class": object ? object.class : null });

const truthBoxes = (card, boxes) =>
  boxes.map(([name, box]) => rectangle(box, card.classes.get(name) || "#444", { class: "truth", "data-class": name }));

function readingOf(caption, figure, weights, active) {
  const { LETTERS, view } = ssattn;
  if (!caption) return "This caption has no boxes.";
  const { word } = figure;
  const letter = LETTERS[view.show];
  const meaning = active && ssattn.VERDICTS[active.verdict] ? "; " + ssattn.VERDICTS[active.verdict][1] : "";
  if (!letter) return "region " + caption.regions[word] + ", weight " + caption.weights[word].toFixed(2) + meaning;
  if (!caption.attention) return "Saved without attention.";
  if (!caption.attention[view.show]) return "This model has no " + letter + ".";
  if (!weights) return "Choose a word to see its " + letter + ".";
  const best = weights.indexOf(Math.max(...weights));
  const chosen = word === null ? "" : "; chosen: region " + caption.regions[word];
  return letter + " is largest at region " + best + ": " + weights[best].toFixed(2) + chosen + meaning;
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
  if (node.phrase) {
    card.phrase = on ? node.phrase : null;
    drawCard(card);
    return;
  }
  const figure = card.figures[Number(node.closest("figure").dataset.model)];
  figure.word = on ? Number(node.dataset.word) : null;
  for (const other of figure.caption.querySelectorAll(".word")) other.classList.toggle("active", on && other === node);
  drawFigure(card, figure);
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
    if (focused !== node && focused.matches(".word, .phrase") && focused.closest("figure") === node.closest("figure")) choose(focused, true);
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
