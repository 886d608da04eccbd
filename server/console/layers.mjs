// What was left out, layer by layer, as a table of words.

const SPACES = {'\n': '⏎', '\t': '⇥'};
const visible = (text) => text.replace(/[\n\t]/g, (c) => SPACES[c]).trim() || '·';

/** Parts of a text by bytes, which the server counts in. */
function slicer(text) {
  const bytes = new TextEncoder().encode(text);
  const decoder = new TextDecoder();
  return (begin, end) => decoder.decode(bytes.subarray(begin, end));
}

/**
 * An encoder's tokens: a row for each layer, {words: [{text, kind, title}], kept}. A token that went
 * through n layers is there in the first n.
 */
export function ofTokens(text, pieces, report) {
  const slice = slicer(text);
  const words = pieces.map((piece) => (piece.sequence === 0 ? slice(piece.begin, piece.end) : piece.text));
  return report.layers.map((_, layer) => {
    const row = words.map((word, i) => {
      const through = report.token_layers[i];
      const kind = through > layer ? 'kept' : through === layer ? 'left' : 'gone';
      return {
        text: visible(word), kind, special: pieces[i].sequence < 0,
        title: through >= report.layers.length ? `${word}: through all layers` : `${word}: through ${through} of ${report.layers.length} layers`,
      };
    });
    return {words: row, kept: row.filter(({kind}) => kind === 'kept').length};
  });
}

/** A text's keys: how many of a layer's KV heads read each in the last step. */
export function ofKeys(tokens, report) {
  const most = Math.max(1, ...report.keys_read.flatMap(({heads}) => heads));
  return report.keys_read.map(({heads}) => {
    const row = heads.map((count, i) => {
      const text = tokens[i]?.text ?? '';
      return {
        text: visible(text), kind: count ? 'kept' : 'gone', strength: count / most, special: false,
        title: `${text.trim() || 'token'} (${i + 1}): read by ${count} of ${most} KV heads`,
      };
    });
    return {words: row, kept: heads.filter((count) => count > 0).length};
  });
}

function word({text, kind, strength = 1, special, title}) {
  const made = document.createElement('span');
  made.className = `word ${kind}${special ? ' special' : ''}`;
  made.textContent = text;
  made.title = title;
  if (kind === 'kept' && strength < 1) {
    made.style.background = `color-mix(in srgb, var(--kept) ${Math.round(100 * strength)}%, transparent)`;
  }
  if (kind !== 'kept') made.setAttribute('aria-label', `${text}, left out`);
  return made;
}

export function table(caption, rows) {
  const made = document.createElement('table');
  made.className = 'layers';
  made.createCaption().textContent = caption;
  const body = made.createTBody();
  rows.forEach(({words, kept}, layer) => {
    const row = body.insertRow();
    const head = document.createElement('th');
    head.scope = 'row';
    const count = document.createElement('b');
    count.textContent = `${kept} of ${words.length}`;
    head.append(`Layer ${layer + 1}: `, count);
    const list = document.createElement('div');
    list.className = 'words';
    list.append(...words.map(word));
    row.append(head);
    row.insertCell().append(list);
  });
  return made;
}
