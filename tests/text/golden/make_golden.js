// Writes expected.json: what Hugging Face's `tokenizers` (npm, 0.13.4-rc2) makes of these texts.
//   python3 make_golden.py && npm install --no-save tokenizers@0.13.3 tokenizers-linux-x64-gnu@0.13.4-rc2
//   node make_golden.js
const fs = require('fs');
const path = require('path');
const {Tokenizer} = require('tokenizers');

const SOURCE = path.join(__dirname, '../../..');
const TOKENIZERS = [
  'models/sst2-mini', 'tests/text/golden/byte_level', 'tests/text/golden/added_tokens',
  'tests/text/golden/byte_fallback', 'tests/text/golden/metaspace'];
const FRAGMENTS = [
  'hello', 'World', 'the', "isn't", "we'll", "they're", "I've", "'s", 'unaffable', 'film', 'gripping',
  'caf\u00e9', 'cafe\u0301', 'CAF\u00c9', 'Cafe\u0301', 'na\u00efve', '\u4e2d\u6587', '\ud55c\uad6d\uc5b4',
  '\u0130stanbul', '\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2', '\u00df', '\u1e9e', '\ufb01', '\u2460', '\u00bd',
  '[MASK]', '[NEW]', ' [NEW] ', 'ABC', 'ABCD', 'xABCD', 'abc', 'abcde', 'raw', 'raws', '<mask>', ' <mask>',
  '\t<mask>', '</s>', '``', "''", '1999', '10 000', '...', '--', '$5.00', '(c)', '\u20ac', '\u201cquote\u201d',
  '\u200d', '\ud83e\udd99', '\ud83d\udc68\u200d\ud83d\udc69\u200d\ud83d\udc67', '\u0000', '\ufffd', '\u0007',
  '\t', '\n\n', '   ', '\u3000', '\u00a0', '\u2028', '\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35',
  '\u0915\u094d\u0937', 'x'.repeat(101), 'y'.repeat(19), '##ing', '\u0301', '\u0323', 'q\u0323\u0301'];

let state = 2;
function random(n) {  // mulberry32
  state = (state + 0x6D2B79F5) | 0;
  let t = Math.imul(state ^ (state >>> 15), 1 | state);
  t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
  return ((t ^ (t >>> 14)) >>> 0) % n;
}

function randomText() {
  let text = '';
  for (let n = random(9); n > 0; --n) {
    text += FRAGMENTS[random(FRAGMENTS.length)] + (random(2) ? ' ' : '');
  }
  return text;
}

// The library counts characters from 0 to the end.
function toBytes(text, characters) {
  return Buffer.byteLength([...text].slice(0, characters).join(''));
}

async function encode(tokenizer, first, second, options) {
  const encoding = await tokenizer.encode(first, second, {addSpecialTokens: options.special});
  const sequences = encoding.getSequenceIds();
  const result = {
    ids: encoding.getIds(), types: encoding.getTypeIds(),
    offsets: encoding.getOffsets().map(([begin, end], i) => {
      const text = sequences[i] === 1 ? second : first;
      return sequences[i] == null ? [0, 0] : [toBytes(text, begin), toBytes(text, end)];
    }),
  };
  result.decoded = await tokenizer.decode(result.ids, true);
  return result;
}

(async () => {
  const cases = [];
  for (const name of TOKENIZERS) {
    const tokenizer = Tokenizer.fromFile(path.join(SOURCE, name, 'tokenizer.json'));
    const texts = [['', null], ...FRAGMENTS.map(t => [t, null])];
    for (let i = 0; i < 80; ++i) texts.push([randomText(), random(2) ? randomText() : null]);
    for (const [first, second] of texts) {
      const options = {special: random(5) > 0, max: random(3) > 0 ? 0 : 4 + random(12)};
      if (options.max) tokenizer.setTruncation(options.max); else tokenizer.disableTruncation();
      const input = second === null ? {first} : {first, second};
      cases.push({tokenizer: name, ...input, ...options,
                  ...await encode(tokenizer, first, second, options)});
    }
  }
  const lines = cases.map(c => JSON.stringify(c)).join(',\n');
  fs.writeFileSync(path.join(__dirname, 'expected.json'), `[\n${lines}\n]\n`);
})();
