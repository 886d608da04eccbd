// The form: one request to a classifier or a decoder, its answer, and what was left out of it.
import {call, lines} from './api.mjs';
import {duration} from './charts.mjs';
import {ofKeys, ofTokens, table} from './layers.mjs';

const EXAMPLES = {
  'sequence classification': {
    policies: ['spatten:final=0.4', 'spatten:keep=0.6', 'spatten:keep=0.5,heads=0.75', 'fact:topk=0.25', 'spatten:keep=0.6+fact:topk=0.25', 'dense'],
    text: 'a gripping, moving film with a slow start that nobody will remember',
  },
  'text generation': {
    policies: ['sinks:first=4,recent=16', 'h2o:heavy=0.2,recent=0.2', 'spatten:final=0.3', 'dense'],
    text: 'Once upon a time there was a little girl who',
  },
};

const $ = (id) => document.getElementById(id);
const models = new Map();  // Name -> task.

function element(tag, className, ...children) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

function facts(rows) {
  return element('ul', 'facts', ...rows.map(([name, value]) => element('li', '', `${name} `, element('b', '', value))));
}

const share = (amount) => {
  const dense = Number(amount?.dense ?? 0);
  return dense ? Number(amount.done) / dense : 1;
};
const percent = (value) => `${(100 * value).toFixed(1)} %`;

function scoreRows(labels, result) {
  const scores = element('div', 'scores');
  labels.forEach((label, i) => {
    const best = label === result.label;
    const meter = element('meter');
    Object.assign(meter, {min: 0, max: 1, value: result.scores[i]});
    meter.setAttribute('aria-label', label);
    scores.append(element('span', best ? 'best' : '', label), meter, element('span', best ? 'best' : '', result.scores[i].toFixed(3)));
  });
  return scores;
}

async function classify(model, policy, text, signal) {
  const ask = async (sparsity) => (await call('thresher.v1.Thresher/Classify', {
    body: {model: {name: model}, inputs: [{text}], options: {truncate: true, sparsity}}, signal,
  })).json();
  const pruned = await ask({policy: policy || 'dense', explain: true});
  const dense = await ask({policy: 'dense'});
  const [result] = pruned.results;
  const [whole] = dense.results;
  const {report} = result.info;
  const drift = Math.max(...result.scores.map((score, i) => Math.abs(score - whole.scores[i])));
  $('answer').append(
    scoreRows(pruned.labels, result),
    facts([
      ['policy', report.policy],
      ['token rows kept', percent(share(report.total.tokens))],
      ['scores kept', percent(share(report.total.scores))],
      ['compute', duration(result.info.timings.compute)],
      ['dense says', `${whole.label}, scores within ${drift.toFixed(3)}`],
    ]));
  $('layers').append(table(
    'Layer by layer, the words that went in. A dashed outline: the last layer before dropped it.',
    ofTokens(text, result.info.pieces, report)));
}

async function generate(model, policy, prompt, length, signal) {
  const written = element('p', 'written');
  $('answer').append(written);
  const tokens = [];
  const answer = await call('thresher.v1.Thresher/Generate', {
    body: {
      model: {name: model}, prompt: {text: prompt}, max_tokens: length, echo: true,
      options: {truncate: true, sparsity: {policy: policy || 'dense', explain: true}},
    }, signal,
  });
  for await (const message of lines(answer)) {
    if (message.error) throw new Error(message.error.message);
    for (const token of message.tokens ?? []) {
      tokens.push(token);
      written.append(element('span', token.prompt ? 'prompt' : '', token.text ?? ''));
    }
    if (!message.end) continue;
    const {end} = message;
    written.append(end.text ?? '');
    $('answer').append(facts([
      ['policy', end.report.policy],
      ['keys and values read in steps', percent(share(end.report.decode?.bytes))],
      ['held at the end', percent(share(end.report.kv_held))],
      ['first token', duration(end.timings.first_token)],
      ['total', duration(end.timings.total)],
      ['ended by', end.finish_reason],
    ]));
    if (end.report.keys_read?.length) {
      $('layers').append(table(
        'Layer by layer, the keys that the last step read. Stronger: by more of the heads.',
        ofKeys(tokens, end.report)));
    }
  }
}

function showTask() {
  const task = models.get($('model').value);
  const {policies, text} = EXAMPLES[task] ?? {policies: [], text: ''};
  $('length-field').hidden = task !== 'text generation';
  $('policies').replaceChildren(...policies.map((value) => Object.assign(element('option'), {value})));
  $('policy').value = policies[0] ?? '';
  $('text').value = text;
}

async function run(event, state) {
  event.preventDefault();
  state.running?.abort();
  const running = new AbortController();
  state.running = running;
  $('answer').replaceChildren();
  $('layers').replaceChildren();
  $('go').disabled = true;
  try {
    const [model, policy, text] = [$('model').value, $('policy').value.trim(), $('text').value];
    if (models.get(model) === 'text generation') {
      await generate(model, policy, text, Number($('length').value), running.signal);
    } else {
      await classify(model, policy, text, running.signal);
    }
  } catch (error) {
    if (!running.signal.aborted) $('answer').append(element('p', 'error', error.message));
  } finally {
    $('go').disabled = false;
  }
}

/** The models that the form has a use for. */
async function loadModels() {
  const {data} = await (await call('v1/models')).json();
  for (const {id} of data) {
    const about = await (await call(`v2/models/${encodeURIComponent(id)}`)).json();
    if (EXAMPLES[about.properties.task]) models.set(id, about.properties.task);
  }
  $('model').replaceChildren(...[...models].map(([name, task]) => Object.assign(element('option', '', `${name} (${task})`), {value: name})));
}

export async function setUpForm() {
  const state = {running: null};
  $('model').addEventListener('change', showTask);
  $('ask').addEventListener('submit', (event) => run(event, state));
  for (;;) {
    try {
      await loadModels();
    } catch { /* The line at the top says that the server does not answer. */ }
    if (models.size) break;
    await new Promise((resolve) => setTimeout(resolve, 3000));
  }
  showTask();
  $('go').disabled = false;
}
