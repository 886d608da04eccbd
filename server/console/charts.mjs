// The charts: what each shows of two reads of the metrics, and its drawing with uPlot.
import {growth, mean, quantile, sum, values} from './metrics.mjs';

const WINDOW_SECONDS = 300;
const OUTCOMES = {
  ok: 'answered', resource_exhausted: 'refused, full', deadline_exceeded: 'late', cancelled: 'cancelled',
  invalid_argument: 'wrong', not_found: 'wrong', unimplemented: 'wrong', unavailable: 'unavailable',
  internal: 'failed',
};
const KINDS = {token: 'tokens', head: 'heads', value: 'values', score: 'scores', qkv_row: 'QKV rows'};

// Three digits, two of small ones, and no zeros at the end.
const digits = (value) => String(Number(value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toPrecision(2)));
const number = (value) => (value == null ? '–' : value >= 10000 ? `${digits(value / 1000)} k` : digits(value));
const percent = (value) => (value == null ? '–' : `${digits(100 * value)} %`);
const scaled = (value, units) => {
  if (value == null) return '–';
  const [unit, size] = units.find(([, size]) => value >= size) ?? units.at(-1);
  return `${digits(value / size)} ${unit}`;
};
export const duration = (value) => scaled(value, [['s', 1], ['ms', 1e-3], ['µs', 1e-6]]);
const bytes = (value) => scaled(value, [['GiB', 2 ** 30], ['MiB', 2 ** 20], ['KiB', 2 ** 10], ['B', 1]]);
const POWERS_OF_TWO = Array.from({length: 44}, (_, i) => 2 ** i);
const joules = (value) => scaled(value, [['J', 1], ['mJ', 1e-3], ['µJ', 1e-6], ['nJ', 1e-9]]);

/** Share of the work of a kind that was done; null if there was none. */
function kept(before, now, kind) {
  const done = growth(before, now, 'thresher_operations_done_total', {kind});
  const skipped = growth(before, now, 'thresher_operations_skipped_total', {kind});
  return done + skipped > 0 ? done / (done + skipped) : null;
}

function byOutcome(before, now, seconds) {
  const rates = {};
  for (const outcome of values(now, 'thresher_requests_total', 'outcome')) {
    const name = OUTCOMES[outcome] ?? outcome;
    rates[name] = (rates[name] ?? 0) + growth(before, now, 'thresher_requests_total', {outcome}) / seconds;
  }
  return rates;
}

const LATENCY = 'thresher_request_total_seconds';
const percentiles = (before, now, name) => ({
  p50: quantile(before, now, name, 0.5), p90: quantile(before, now, name, 0.9), p99: quantile(before, now, name, 0.99),
});

/** `needs`: the series without which there is nothing to show; `of`: name -> value. */
const CHARTS = [
  {title: 'Inputs a second', unit: 'by outcome', format: number, of: byOutcome,
   series: ['answered', 'refused, full', 'late', 'cancelled', 'wrong', 'unavailable', 'failed']},
  {title: 'Latency', unit: 'of answered inputs', format: duration, series: ['p50', 'p90', 'p99'],
   of: (before, now) => percentiles(before, now, LATENCY)},
  {title: 'Queue', unit: 'sequences', format: number, series: ['waiting', 'running'],
   of: (before, now) => ({waiting: sum(now, 'thresher_queue_depth'), running: sum(now, 'thresher_running_sequences')})},
  {title: 'Batch', unit: 'mean', format: number, series: ['sequences', 'tokens'], needs: 'thresher_batch_sequences_count',
   of: (before, now) => ({sequences: mean(before, now, 'thresher_batch_sequences'), tokens: mean(before, now, 'thresher_batch_tokens')})},
  {title: 'Work kept', unit: 'share of dense', format: percent, range: [0, 1], series: Object.values(KINDS),
   of: (before, now) => Object.fromEntries(Object.entries(KINDS).map(([kind, name]) => [name, kept(before, now, kind)]))},
  {title: 'Tokens a second', unit: 'of generated texts', format: number, series: ['generated', 'read'], needs: 'thresher_generated_tokens_total',
   of: (before, now, seconds) => ({
     generated: growth(before, now, 'thresher_generated_tokens_total') / seconds,
     read: growth(before, now, 'thresher_prompt_tokens_total') / seconds,
   })},
  {title: 'Token to token', unit: 'as readers see it', format: duration, series: ['p50', 'p90', 'p99'], needs: 'thresher_generated_tokens_total',
   of: (before, now) => percentiles(before, now, 'thresher_inter_token_latency_seconds')},
  {title: 'KV cache', unit: 'memory', format: bytes, incrs: POWERS_OF_TWO, series: ['held', 'reserved', 'idle'], needs: 'thresher_generated_tokens_total',
   of: (before, now) => ({
     held: sum(now, 'thresher_kv_cache_used_bytes'), reserved: sum(now, 'thresher_kv_cache_reserved_bytes'), idle: sum(now, 'thresher_kv_cache_idle_bytes'),
   })},
  {title: 'On the accelerator', unit: 'modelled time of an input', format: duration, series: ['mean', 'p99'], needs: 'thresher_simulated_seconds_count',
   of: (before, now) => ({mean: mean(before, now, 'thresher_simulated_seconds'), p99: quantile(before, now, 'thresher_simulated_seconds', 0.99)})},
  {title: 'Energy', unit: 'modelled, of an input', format: joules, series: ['mean'], needs: 'thresher_simulated_seconds_count',
   of: (before, now) => ({mean: mean(before, now, 'thresher_simulated_energy_joules')})},
];

/** The figures at the top: [name, value, unit]. */
export function tiles(before, now, seconds) {
  const rates = byOutcome(before, now, seconds);
  const saved = kept(before, now, 'score');
  const rows = [
    ['Answered', number(rates.answered ?? 0), '/s'],
    ['Latency, p99', duration(quantile(before, now, LATENCY, 0.99)), ''],
    ['Waiting', number(sum(now, 'thresher_queue_depth') ?? 0), 'sequences'],
    ['Queue pressure', percent(sum(now, 'thresher_queue_pressure') ?? 0), ''],
    ['Scores left out', percent(saved === null ? null : 1 - saved), ''],
  ];
  if (now.has('thresher_generated_tokens_total')) {
    rows.push(['Generated', number(growth(before, now, 'thresher_generated_tokens_total') / seconds), 'tokens/s']);
  }
  return rows;
}

class Chart {
  constructor(about, parent) {
    this.about = about;
    this.data = [[], ...about.series.map(() => [])];
    this.figure = document.createElement('figure');
    this.figure.className = 'card';
    const caption = document.createElement('figcaption');
    const title = document.createElement('h3');
    const unit = document.createElement('span');
    title.textContent = about.title;
    unit.textContent = about.unit;
    caption.append(title, unit);
    this.figure.append(caption);
    parent.append(this.figure);
    this.draw();
    new ResizeObserver(() => this.fit()).observe(this.figure);
  }

  size() {
    const style = getComputedStyle(this.figure);
    const padding = parseFloat(style.paddingLeft) + parseFloat(style.paddingRight);
    return {width: Math.max(this.figure.clientWidth - padding, 120), height: 170};
  }

  fit() {
    const size = this.size();
    if (size.width !== this.plot.width) this.plot.setSize(size);
  }

  /** Anew: colours are the theme's. */
  draw() {
    const {about} = this;
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.plot?.destroy();
    const axis = {stroke: colour('--quiet'), grid: {stroke: colour('--grid'), width: 1}, ticks: {show: false}};
    const series = about.series.map((label, i) => ({
      label, stroke: colour(`--c${(i % 6) + 1}`), width: 2, points: {show: false}, dash: i >= 6 ? [4, 3] : undefined,
      value: (plot, value, of, at) => about.format(at == null ? this.data[of].at(-1) : value),
    }));
    const clock = new Intl.DateTimeFormat(undefined, {hour: '2-digit', minute: '2-digit', hour12: false});
    const exact = new Intl.DateTimeFormat(undefined, {timeStyle: 'medium', hour12: false});
    this.plot = new uPlot({
      ...this.size(),
      series: [{label: 'at', value: (plot, value) => (value == null ? 'now' : exact.format(1000 * value))}, ...series],
      axes: [{...axis, space: 70, size: 30, values: (plot, ticks) => ticks.map((tick) => clock.format(1000 * tick))},
             {...axis, size: 62, incrs: about.incrs, values: (plot, ticks) => ticks.map(about.format)}],
      scales: {x: {range: (plot, min, max) => [max - WINDOW_SECONDS, max]},
               y: {range: about.range ?? ((plot, min, max) => [0, max > 0 ? 1.1 * max : 1])}},
      cursor: {points: {size: 7}, drag: {x: false, y: false}},
      legend: {live: true},
    }, this.data, this.figure);
    this.hideEmpty();
  }

  /** Of series that never were, not even the name. */
  hideEmpty() {
    this.data.slice(1).forEach((points, i) => {
      const shown = points.some((value) => value) || i === 0;
      if (this.plot.series[i + 1].show !== shown) this.plot.setSeries(i + 1, {show: shown});
      const row = this.figure.querySelectorAll('.u-series')[i + 1];
      if (row) row.hidden = !shown;
    });
  }

  add(time, before, now, seconds) {
    const of = this.about.of(before, now, seconds);
    this.data[0].push(time);
    this.about.series.forEach((name, i) => this.data[i + 1].push(of[name] ?? null));
    const old = this.data[0].findIndex((at) => at >= time - WINDOW_SECONDS);
    this.data.forEach((points) => points.splice(0, old));
    this.plot.setData(this.data);
    this.hideEmpty();
    const latest = this.about.series.filter((name) => of[name] != null).map((name) => `${name} ${this.about.format(of[name])}`);
    this.figure.setAttribute('aria-label', `${this.about.title}, now: ${latest.join(', ') || 'nothing'}`);
  }
}

export class Charts {
  constructor(parent) {
    this.parent = parent;
    this.shown = new Map();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      for (const chart of this.shown.values()) chart.draw();
    });
  }

  /** A read at `time`, `seconds` after the one before. Charts appear when there is something to show. */
  add(time, before, now, seconds) {
    for (const about of CHARTS) {
      if (!this.shown.has(about) && (!about.needs || now.has(about.needs))) {
        this.shown.set(about, new Chart(about, this.parent));
      }
      this.shown.get(about)?.add(time, before, now, seconds);
    }
  }
}
