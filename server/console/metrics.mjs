// Prometheus' text format, read, and what charts are made of: rates and percentiles between two reads.

/** A read of /metrics: name -> [{labels, value}]. Lines that are not samples are passed over. */
export function parse(text) {
  const series = new Map();
  const line = /^([A-Za-z_:][\w:]*)(?:\{(.*)\})? (\S+)/;
  const label = /([A-Za-z_]\w*)="((?:[^"\\]|\\.)*)"/g;
  for (const row of text.split('\n')) {
    const found = line.exec(row);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? '').matchAll(label)) {
      labels[name] = value.replace(/\\(.)/g, (_, c) => (c === 'n' ? '\n' : c));
    }
    const value = found[3] === '+Inf' ? Infinity : Number(found[3]);
    if (!series.has(found[1])) series.set(found[1], []);
    series.get(found[1]).push({labels, value});
  }
  return series;
}

const matches = (labels, want) => Object.entries(want).every(([name, value]) => labels[name] === value);

/** Sum of the series of that name with those labels; null if there is none. */
export function sum(read, name, want = {}) {
  const chosen = (read.get(name) ?? []).filter(({labels}) => matches(labels, want));
  return chosen.length ? chosen.reduce((total, {value}) => total + value, 0) : null;
}

/** The values that a label takes. */
export function values(read, name, label) {
  return [...new Set((read.get(name) ?? []).map(({labels}) => labels[label]))].sort();
}

/** How much a counter grew; one that shrank began anew. Null where it is not there. */
export function growth(before, now, name, want = {}) {
  const to = sum(now, name, want);
  if (to === null) return null;
  const from = sum(before, name, want) ?? 0;
  return to >= from ? to - from : to;
}

/** The mean of a histogram's observations between two reads; null if there were none. */
export function mean(before, now, name, want = {}) {
  const count = growth(before, now, `${name}_count`, want);
  return count ? growth(before, now, `${name}_sum`, want) / count : null;
}

/** A quantile of them, straight within a bucket; null if there were none. */
export function quantile(before, now, name, q, want = {}) {
  const bounds = values(now, `${name}_bucket`, 'le')
    .map((le) => ({le, bound: le === '+Inf' ? Infinity : Number(le)}))
    .sort((a, b) => a.bound - b.bound);
  const counts = bounds.map(({le}) => growth(before, now, `${name}_bucket`, {...want, le}));
  const all = counts.at(-1);
  if (!all) return null;
  const rank = q * all;
  const at = counts.findIndex((count) => count >= rank);
  const lower = at > 0 ? bounds[at - 1].bound : 0;
  if (bounds[at].bound === Infinity) return lower;
  const below = at > 0 ? counts[at - 1] : 0;
  const within = counts[at] - below;
  return lower + (bounds[at].bound - lower) * (within ? (rank - below) / within : 1);
}
