// The console in a real browser, on a real server.
//
//   CONSOLE_THRESHERD, CONSOLE_SOURCE_DIR   the server and the source tree
//   CONSOLE_SCREENSHOTS                     a directory for pictures; unset: none are taken
'use strict';
const assert = require('node:assert/strict');
const {spawn} = require('node:child_process');
const path = require('node:path');
const {after, before, test} = require('node:test');
const {Page, findBrowser} = require('./browser.js');

const source = process.env.CONSOLE_SOURCE_DIR;
const decoder = process.env.CONSOLE_DECODER ?? path.join(source, 'tests/golden/decoder-gpt2');
let server, page, address;

before(async () => {
  server = spawn(process.env.CONSOLE_THRESHERD, [
    '--listen', '127.0.0.1:0', '--http', '127.0.0.1:0', '--model', `sst2-mini=${path.join(source, 'models/sst2-mini')}`,
    '--model', `decoder=${decoder}`,
  ], {stdio: ['ignore', 'pipe', 'ignore']});
  address = await new Promise((resolve, reject) => {
    let said = '';
    server.stdout.on('data', (data) => {
      said += data;
      const found = / http=(\S+) /.exec(said);
      if (found) resolve(`http://${found[1]}`);
    });
    server.on('exit', () => reject(new Error('the server ended')));
  });
  page = await Page.open(findBrowser());
  await page.look(1180, 900, 'light');
  await page.go(`${address}/`);
});

after(async () => {
  await page?.close();
  server.kill();
});

const choose = (model) => page.evaluate(`
  document.getElementById('model').value = '${model}';
  document.getElementById('model').dispatchEvent(new Event('change'))`);
const fill = (id, value) => page.evaluate(`document.getElementById('${id}').value = ${JSON.stringify(value)}`);
const run = () => page.evaluate(`document.getElementById('go').click()`);
const done = () => page.until(`!document.getElementById('go').disabled`, 'the end of the request');
const text = (selector) => page.evaluate(`[...document.querySelectorAll('${selector}')].map((found) => found.innerText)`);

/** A narrow window has all of the page. */
async function checkNarrow() {
  await page.look(360, 800, 'dark');
  assert.ok(await page.evaluate('document.documentElement.scrollWidth <= 360'), 'it is wider than the window');
  await page.look(1180, 900, 'light');
}

async function shot(name, width, scheme) {
  if (!process.env.CONSOLE_SCREENSHOTS) return;
  await page.look(width, 900, scheme);
  await new Promise((resolve) => setTimeout(resolve, 600));
  await page.screenshot(path.join(process.env.CONSOLE_SCREENSHOTS, `${name}.png`));
  await page.look(1180, 900, 'light');
}

test('the page says that the server serves, and lists its models', async () => {
  await page.until(`document.getElementById('phase').textContent === 'serving'`);
  await page.until(`!document.getElementById('go').disabled`, 'models');
  assert.deepEqual(await text('#model option'), ['decoder (text generation)', 'sst2-mini (sequence classification)']);
  assert.match((await text('#about'))[0], /^version \d/);
});

test('a sentence is classified, and the words that were dropped are shown layer by layer', async () => {
  await choose('sst2-mini');
  await fill('policy', 'spatten:final=0.4');
  await run();
  await done();
  const [label] = await text('.scores .best');
  assert.match(label, /positive|negative/);
  const layers = await text('.layers th');
  assert.ok(layers.length > 1);
  assert.match(layers[0], /^Layer 1: (\d+) of \1$/);
  const kept = layers.map((row) => Number(/: (\d+) of/.exec(row)[1]));
  assert.ok(kept.at(-1) < kept[0], `${kept}`);
  assert.ok((await text('.word.gone, .word.left')).length > 0);
  assert.ok((await text('.layers tr:last-child .word.kept')).includes('[CLS]'));
  await checkNarrow();
  await shot('classify-light', 1180, 'light');
  await shot('classify-dark', 1180, 'dark');
  await shot('classify-narrow', 400, 'light');
});

test('what the server refuses is said in its own words', async () => {
  await fill('policy', 'nonsense:keep=1');
  await run();
  await done();
  assert.match((await text('.error'))[0], /sparsity: .*nonsense/);
  assert.deepEqual(await text('.layers'), []);
  page.errors = page.errors.filter((error) => !/status of 400/.test(error));  // As it should be.
});

test('a text is written, and the keys that its last step read are shown', async () => {
  await choose('decoder');
  await fill('policy', 'sinks:first=1,recent=6');
  await fill('text', process.env.CONSOLE_PROMPT ?? 'abcd');
  await fill('length', process.env.CONSOLE_LENGTH ?? 16);
  await run();
  await done();
  assert.deepEqual(await text('.error'), []);
  const layers = await text('.layers th');
  assert.ok(layers.length > 1);
  for (const row of layers) assert.match(row, /: 7 of \d+$/);
  assert.ok((await text('.word.gone')).length > 0);
  assert.ok((await text('.written'))[0].length > 0);
  await checkNarrow();
  await shot('generate-light', 1180, 'light');
  await shot('generate-dark', 1180, 'dark');
});

test('charts are drawn from the metrics', async () => {
  await page.until(`document.querySelectorAll('.charts figure canvas').length >= 6`, 'charts');
  const titles = await text('.charts h3');
  for (const title of ['Inputs a second', 'Latency', 'Work kept', 'Tokens a second']) assert.ok(titles.includes(title), title);
  await page.until(`/answered [1-9.]/.test([...document.querySelectorAll('.charts figure')].map((f) => f.ariaLabel).join())
    || [...document.querySelectorAll('.charts figure')].some((f) => /p99 \\S+ ms/.test(f.ariaLabel))`, 'figures');
  assert.ok((await text('.tiles dt')).length >= 5);
});

test('all controls have names', async () => {
  const {nodes} = await page.send('Accessibility.getFullAXTree');
  for (const node of nodes) {
    const role = node.role?.value;
    if (['button', 'combobox', 'textbox', 'spinbutton', 'meter', 'link'].includes(role) && !node.ignored) {
      assert.ok(node.name?.value, `a ${role} without a name`);
    }
  }
});

test('the page broke no rule of its content security policy, and threw nothing', () => {
  assert.deepEqual(page.errors, []);
});
