// The console: reads the server's metrics every two seconds and shows them, and sets up the form.
import {call} from './api.mjs';
import {Charts, tiles} from './charts.mjs';
import {parse} from './metrics.mjs';
import {setUpForm} from './form.mjs';

const EVERY_MS = 2000;
const LOOK_BACK = 5;  // Reads that rates are taken over, so that they don't jump.

const phase = document.getElementById('phase');
const charts = new Charts(document.getElementById('charts'));
const reads = [];

function showPhase(text, kind) {
  if (phase.textContent !== text) phase.textContent = text;
  phase.className = `pill ${kind}`;
}

function showTiles(rows) {
  const list = document.getElementById('tiles');
  list.replaceChildren(...rows.map(([name, value, unit]) => {
    const tile = document.createElement('div');
    const term = document.createElement('dt');
    const figure = document.createElement('dd');
    const small = document.createElement('span');
    term.textContent = name;
    small.textContent = unit;
    figure.append(value, small);
    tile.append(term, figure);
    return tile;
  }));
}

/** Where the whole of a moment's traffic is in one read, or none, the mean over some is shown. */
function show(time, metrics) {
  reads.push({time, metrics});
  if (reads.length > LOOK_BACK) reads.shift();
  const first = reads[0];
  const seconds = Math.max(time - first.time, 1e-3);
  showTiles(tiles(first.metrics, metrics, seconds));
  if (reads.length > 1) charts.add(time, first.metrics, metrics, seconds);
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await call('metrics');
      show(Date.now() / 1000, parse(await answer.text()));
      const ready = await (await call('readyz', {anyStatus: true})).json();
      showPhase(ready.ready ? 'serving' : ready.phase === 'serving' ? 'not all models are ready' : ready.phase,
                ready.ready ? 'good' : 'bad');
    } catch (error) {
      showPhase(error.status ? error.message : 'the server does not answer', 'bad');
      reads.length = 0;
    }
  }
  setTimeout(poll, EVERY_MS);
}

async function about() {
  const answer = await (await call('v2')).json();
  document.getElementById('about').textContent = `version ${answer.version}`;
}

poll();
about().catch(() => {});
setUpForm();
