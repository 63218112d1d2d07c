"use strict";
// Weights are stored as little-endian float16 in base64, (T, K) row by row; beta is (K,).
ssattn.LETTERS = { alpha: "α", beta: "β", gamma: "γ" };

// One float16: sign, 5 bits of exponent, 10 of fraction.
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

ssattn.decode = function (base64) {
  const bytes = atob(base64);
  const values = new Float32Array(bytes.length / 2);
  for (let i = 0; i < values.length; i++) {
    values[i] = half(bytes.charCodeAt(2 * i) | (bytes.charCodeAt(2 * i + 1) << 8));
  }
  return values;
};

// The weights of all regions at one word, or null: for a caption saved without them, for a model without beta, and
// for alpha and gamma when no word is chosen.
ssattn.weights = function ({ grounding, regions }, kind, word) {
  const stored = grounding && grounding.attention && grounding.attention[kind];
  if (!stored || !regions) return null;
  const all = ssattn.decode(stored);
  if (kind === "beta") return all.slice(0, regions.length);
  return word === null ? null : all.slice(word * regions.length, (word + 1) * regions.length);
};

// A veil over the picture that is thin where the weights are large: regions keep their light in proportion to the
// largest weight. Light and dark need no colour, so everybody sees them.
ssattn.veil = function (id, size, regions, weights) {
  const { svg } = ssattn;
  const most = Math.max(...weights, 1e-12);
  const whole = { x: 0, y: 0, width: size[0], height: size[1] };
  const mask = svg("mask", { id, maskUnits: "userSpaceOnUse", ...whole }, svg("rect", { ...whole, fill: "#fff" }));
  regions.forEach(([x1, y1, x2, y2], region) => {
    const share = Math.max(0, weights[region] / most);
    mask.append(svg("rect", {
      class: "region", x: x1, y: y1, width: Math.max(0, x2 - x1), height: Math.max(0, y2 - y1),
      fill: "#000", "fill-opacity": share.toFixed(3), "data-region": region, "data-weight": weights[region].toFixed(4),
    }));
  });
  return svg("g", { class: "veil" }, mask, svg("rect", { ...whole, class: "dark", mask: "url(#" + id + ")" }));
};
