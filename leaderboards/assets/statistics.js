"use strict";
/* The paired test of evalkit.statistics for the browser: sign flips over prompts, its interval, Holm's correction. */
const Statistics = (() => {
  const EXACT = 14, DRAWS = 10000;  // as in evalkit.statistics: all 2^K signs up to K = 14, else sampled

  /** Deterministic random bits (Marsaglia, 2003): the same page shows the same p-value every time. */
  function random(seed) {
    let state = seed >>> 0 || 1;
    return () => {
      state ^= state << 13; state ^= state >>> 17; state ^= state << 5;
      return state >>> 0;
    };
  }

  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

  /** Flipped sums and the sums of their signs; the first flips nothing (Phipson & Smyth, 2010). */
  function flips(differences) {
    const values = Float64Array.from(differences).sort(), k = values.length;
    const count = k <= EXACT ? 2 ** k : DRAWS + 1, next = random(20261124);
    const sums = new Float64Array(count), totals = new Float64Array(count);
    for (let s = 0; s < count; s += 1) {
      let sum = 0, total = 0, bits = 0;
      for (let i = 0; i < k; i += 1) {
        if (i % 24 === 0) bits = s === 0 ? 0 : k <= EXACT ? s : next() >>> 4;  // the low bits are the weak ones
        const sign = bits >>> (i % 24) & 1 ? -1 : 1;
        sum += sign * values[i];
        total += sign;
      }
      sums[s] = sum;
      totals[s] = total;
    }
    return {sums, totals, largest: sums.reduce((most, x) => Math.max(most, Math.abs(x)), 0)};
  }

  function pValue(shift, {sums, totals, largest}) {
    const tie = 1e-12 * (largest + Math.abs(shift) * totals[0]), seen = Math.abs(sums[0] - shift * totals[0]) - tie;
    let beyond = 0;
    for (let s = 0; s < sums.length; s += 1) if (Math.abs(sums[s] - shift * totals[s]) >= seen) beyond += 1;
    return beyond / sums.length;
  }

  function lastAccepted(from, reach, flipped) {
    let inside = from, outside = from + reach;
    while (pValue(outside, flipped) >= 0.05) outside += reach;
    for (let step = 0; step < 30; step += 1) {
      const middle = (inside + outside) / 2;
      if (pValue(middle, flipped) >= 0.05) inside = middle; else outside = middle;
    }
    return inside;
  }

  /** B minus A over prompts, differences (K,): {difference, low, high, p, n}. Below 6 no sign flip rejects: no interval. */
  function paired(differences) {
    const n = differences.length, difference = mean(differences), flipped = flips(differences);
    const reach = Math.max(...differences) - Math.min(...differences), p = pValue(0, flipped);
    if (reach === 0) return {difference, low: n > 1 ? difference : null, high: n > 1 ? difference : null, p, n};
    if (n < 6) return {difference, low: null, high: null, p, n};
    const [low, high] = [-1, 1].map((side) => lastAccepted(difference, side * reach, flipped));
    return {difference, low, high, p, n};
  }

  /** The normal distribution function to 1e-7 (Abramowitz & Stegun, 26.2.17). */
  function below(z) {
    const t = 1 / (1 + 0.2316419 * Math.abs(z));
    const tail = Math.exp(-z * z / 2) / Math.sqrt(2 * Math.PI) * t * (0.31938153 + t * (-0.356563782 + t *
      (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
    return z < 0 ? tail : 1 - tail;
  }

  /** Two numbers of whole sets with their intervals, taken as independent and normal; null where one has none. */
  function unpaired(a, b) {
    if (a.n !== b.n) return {difference: null, why: `not comparable: ${a.n} against ${b.n} clips`};
    if (a.low == null || b.low == null) return {difference: null, why: "not comparable: an interval is missing"};
    const difference = b.value - a.value, half = Math.hypot(a.high - a.low, b.high - b.low) / 2;
    const p = half > 0 ? 2 * below(-Math.abs(difference) / half * 1.959963985) : Number(difference === 0);
    return {difference, low: difference - half, high: difference + half, p, n: a.n};
  }

  /** Holm's (1979) step-down adjusted p-values, in the order given. */
  function holm(pValues) {
    const order = [...pValues.keys()].sort((a, b) => pValues[a] - pValues[b]), adjusted = new Array(pValues.length);
    let most = 0;
    order.forEach((index, step) => {
      most = Math.max(most, pValues[index] * (pValues.length - step));
      adjusted[index] = Math.min(1, most);
    });
    return adjusted;
  }

  /** Rows of values (N, M), higher better, that no other equals or beats in all and beats in one. */
  function front(values) {
    const order = [...values.keys()].sort((a, b) => {
      const at = values[a].findIndex((x, i) => x !== values[b][i]);
      return at < 0 ? 0 : values[b][at] - values[a][at];
    });
    const kept = [];
    const equal = (a, b) => a.every((x, i) => x === b[i]);
    for (const i of order) {  // best first objective first: only an earlier row can dominate
      if (kept.every((j) => equal(values[j], values[i]) || values[j].some((x, m) => x < values[i][m]))) kept.push(i);
    }
    return kept;
  }

  /** Volume of the union of the boxes from 0 to points (N, M), all positive: slices along the last objective. */
  function volume(points) {
    if (!points.length) return 0;
    if (points[0].length === 1) return Math.max(...points.map(([x]) => x));
    const sorted = [...points].sort((a, b) => b.at(-1) - a.at(-1));
    return sorted.reduce((sum, point, i) => {
      const depth = point.at(-1) - (sorted[i + 1]?.at(-1) ?? 0);
      return depth > 0 ? sum + depth * volume(sorted.slice(0, i + 1).map((p) => p.slice(0, -1))) : sum;
    }, 0);
  }

  return {paired, unpaired, holm, front, volume, mean};
})();
