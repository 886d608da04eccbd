// Calls of the server that the page came from, with the caller's token where the server wants one.
let token = '';
let asking = null;

/** Asks for a token until one was given. */
function askToken() {
  const form = document.getElementById('token');
  form.hidden = false;
  asking ??= new Promise((resolve) => {
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      token = document.getElementById('token-text').value;
      form.hidden = true;
      asking = null;
      resolve();
    }, {once: true});
  });
  return asking;
}

/** What the body of an error says, in any of the server's forms. */
async function reason(answer) {
  const text = await answer.text();
  try {
    const json = JSON.parse(text);
    return json.error?.message ?? json.message ?? json.error ?? text;
  } catch {
    return text || `${answer.status} ${answer.statusText}`;
  }
}

/**
 * A GET, or a POST of `body` as JSON. Throws an Error with the server's own words and `status`, but
 * where `anyStatus` is wanted.
 */
export async function call(path, {body, signal, anyStatus} = {}) {
  for (;;) {
    const answer = await fetch(path, {
      method: body === undefined ? 'GET' : 'POST',
      headers: {
        ...(body === undefined ? {} : {'Content-Type': 'application/json'}),
        ...(token ? {Authorization: `Bearer ${token}`} : {}),
      },
      body: body === undefined ? undefined : JSON.stringify(body),
      cache: 'no-store',
      signal,
    });
    if (answer.status === 401) {
      await askToken();
      continue;
    }
    if (answer.ok || anyStatus) return answer;
    throw Object.assign(new Error(await reason(answer)), {status: answer.status});
  }
}

/** The objects of an answer whose lines are JSON, as they come. */
export async function* lines(answer) {
  const decoder = new TextDecoder();
  const reader = answer.body.getReader();
  let rest = '';
  for (;;) {
    const {value, done} = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, {stream: true});
    const whole = rest.split('\n');
    rest = whole.pop();
    for (const line of whole) {
      if (line) yield JSON.parse(line);
    }
    if (done) return;
  }
}
