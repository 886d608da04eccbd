// What the console makes of the metrics, without a browser.
import assert from 'node:assert/strict';
import {test} from 'node:test';

const {growth, mean, parse, quantile, sum, values} = await import(`${process.env.CONSOLE_SOURCE_DIR}/server/console/metrics.mjs`);
const {ofKeys, ofTokens} = await import(`${process.env.CONSOLE_SOURCE_DIR}/server/console/layers.mjs`);

test('samples are read with their labels, and the rest is passed over', () => {
  const read = parse('# HELP a b\n# TYPE a counter\na{x="1",y="q\\"\\\\\\n"} 2\na{x="2"} 3e1 1700000000\nb 4\nnonsense\nc{} +Inf\n');
  assert.deepEqual(read.get('a'), [{labels: {x: '1', y: 'q"\\\n'}, value: 2}, {labels: {x: '2'}, value: 30}]);
  assert.equal(sum(read, 'a'), 32);
  assert.equal(sum(read, 'a', {x: '2'}), 30);
  assert.equal(sum(read, 'none'), null);
  assert.equal(sum(read, 'c'), Infinity);
  assert.deepEqual(values(read, 'a', 'x'), ['1', '2']);
});

test('a counter that shrank began anew', () => {
  const growths = [['a 5', 'a 7', 2], ['a 5', 'a 3', 3], ['', 'a 3', 3], ['a 5', '', null]];
  for (const [before, now, expected] of growths) assert.equal(growth(parse(before), parse(now), 'a'), expected);
});

const histogram = (...counts) => parse(
  `${[0.1, 0.2, '+Inf'].map((le, i) => `h_bucket{le="${le}"} ${counts[i]}`).join('\n')}\nh_sum ${counts[3]}\nh_count ${counts[2]}\n`);

test('percentiles are of what came between two reads', () => {
  const before = histogram(100, 100, 100, 1);
  assert.equal(quantile(before, before, 'h', 0.5), null);
  assert.equal(mean(before, before, 'h'), null);
  const now = histogram(102, 104, 104, 1.6);
  assert.equal(mean(before, now, 'h').toFixed(3), '0.150');
  assert.equal(quantile(before, now, 'h', 0.5), 0.1);
  assert.equal(quantile(before, now, 'h', 0.75).toFixed(3), '0.150');
  assert.equal(quantile(before, histogram(100, 100, 104, 9), 'h', 0.99), 0.2);  // Beyond the last bound.
});

test('a token is there in as many layers as it went through', () => {
  const rows = ofTokens('a bé', [
    {sequence: -1, text: '[CLS]'}, {sequence: 0, begin: 0, end: 1, text: 'a'}, {sequence: 0, begin: 2, end: 5, text: 'be'},
  ], {layers: [{}, {}, {}], token_layers: [3, 1, 2]});
  assert.deepEqual(rows.map(({kept}) => kept), [3, 2, 1]);
  assert.deepEqual(rows[1].words.map(({text, kind}) => [text, kind]), [['[CLS]', 'kept'], ['a', 'left'], ['bé', 'kept']]);
  assert.deepEqual(rows[2].words.map(({kind}) => kind), ['kept', 'gone', 'left']);
});

test('a key is as strong as the share of heads that read it', () => {
  const [row] = ofKeys([{text: 'a'}, {text: ' b'}, {text: '\n'}], {keys_read: [{heads: [4, 0, 2]}]});
  assert.equal(row.kept, 2);
  assert.deepEqual(row.words.map(({text, kind, strength}) => [text, kind, strength]), [['a', 'kept', 1], ['b', 'gone', 0], ['⏎', 'kept', 0.5]]);
});
