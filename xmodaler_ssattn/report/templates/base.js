"use strict";
// The page's one global. Data files call ssattn.index and ssattn.part; a page opened from disk may run scripts, not read files.
const ssattn = { data: null, parts: new Map(), waiting: new Map() };

ssattn.index = function (data) {
  ssattn.data = data;
  ssattn.start();
};

ssattn.part = function (number, images) {
  ssattn.parts.set(number, images);
  for (const ready of ssattn.waiting.get(number) || []) ready(images);
  ssattn.waiting.delete(number);
};

// Call ready(details) with the boxes, attention and references of the image at a position of the index.
ssattn.details = function (position, ready) {
  const number = Math.floor(position / ssattn.data.part);
  const id = String(ssattn.data.images[position].i);
  if (ssattn.parts.has(number)) return ready(ssattn.parts.get(number)[id]);
  const hand_over = (images) => ready(images[id]);
  if (ssattn.waiting.has(number)) return ssattn.waiting.get(number).push(hand_over);
  ssattn.waiting.set(number, [hand_over]);
  const script = document.createElement("script");
  script.src = "data/part_" + String(number).padStart(4, "0") + ".js";
  script.onerror = () => {
    for (const waiting of ssattn.waiting.get(number) || []) waiting({});
    ssattn.waiting.delete(number);
  };
  document.head.append(script);
};

// Elements. Strings become text nodes, so nothing that a caption or a name holds is ever read as markup.
function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== ""));
  return node;
}
ssattn.el = (tag, attributes, ...children) => build(document.createElement(tag), attributes, children);
ssattn.svg = (tag, attributes, ...children) =>
  build(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

ssattn.percent = (value) => (value === null || value === undefined ? "–" : (100 * value).toFixed(1).replace("-", "−"));
ssattn.colour = (model) => ssattn.data.model_colours[model % ssattn.data.model_colours.length];
ssattn.swatch = (model, kind = "swatch") => ssattn.el("i", { class: kind, style: "background: " + ssattn.colour(model) });
// A few photographs of one's own are shown large and without filters.
ssattn.few = () => ssattn.data.images.length <= 12 && ssattn.data.images.some((row) => row.n);
ssattn.plural = (count, word) => count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");
