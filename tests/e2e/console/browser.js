// Headless Chromium, driven over its debugging pipe: no package is needed for that.
'use strict';
const {spawn, spawnSync} = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');

/** The browser's command; null if there is none. */
exports.findBrowser = () =>
  ['chromium', 'chromium-headless-shell', 'chromium-browser', 'google-chrome'].find(
    (name) => spawnSync('which', [name]).status === 0) ?? null;

/** One page of one browser. */
exports.Page = class Page {
  #next = 1;
  #waiting = new Map();
  #session;
  #home = fs.mkdtempSync(path.join(os.tmpdir(), 'console-'));
  /** What the page logged as an error, and what it threw. */
  errors = [];

  static async open(command) {
    const page = new Page();
    await page.#start(command);
    return page;
  }

  async #start(command) {
    this.browser = spawn(command, [
      '--headless=new', '--remote-debugging-pipe', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
      '--disable-background-networking', '--disable-component-update', '--disable-sync', '--no-first-run',
      '--hide-scrollbars', '--force-color-profile=srgb', `--user-data-dir=${this.#home}`, 'about:blank',
    ], {stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe']});
    let rest = '';
    this.browser.stdio[4].setEncoding('utf8').on('data', (data) => {
      const messages = (rest + data).split('\0');
      rest = messages.pop();
      messages.forEach((message) => this.#take(JSON.parse(message)));
    });
    this.browser.on('exit', () => {
      for (const {reject} of this.#waiting.values()) reject(new Error('the browser ended'));
    });
    const {targetId} = await this.send('Target.createTarget', {url: 'about:blank'});
    ({sessionId: this.#session} = await this.send('Target.attachToTarget', {targetId, flatten: true}));
    for (const domain of ['Page', 'Runtime', 'Log']) await this.send(`${domain}.enable`);
  }

  #take(message) {
    const {method, params} = message;
    if (method === 'Runtime.exceptionThrown') this.errors.push(params.exceptionDetails.exception?.description ?? params.exceptionDetails.text);
    if (method === 'Log.entryAdded' && params.entry.level === 'error') this.errors.push(`${params.entry.text} ${params.entry.url ?? ''}`);
    const waiting = this.#waiting.get(message.id);
    if (!waiting) return;
    this.#waiting.delete(message.id);
    if (message.error) waiting.reject(new Error(message.error.message));
    else waiting.resolve(message.result);
  }

  send(method, params = {}) {
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, {resolve, reject});
      this.browser.stdio[3].write(`${JSON.stringify({id, method, params, sessionId: this.#session})}\0`);
    });
  }

  /** The value of an expression in the page. */
  async evaluate(expression) {
    const {result, exceptionDetails} = await this.send('Runtime.evaluate', {expression, returnByValue: true, awaitPromise: true});
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** Waits until an expression is true in the page, and gives its value. */
  async until(expression, what = expression) {
    const patience = Date.now() + 60000;  // Only so that a failure does not hang.
    for (;;) {
      const value = await this.evaluate(expression).catch(() => false);  // Of what is not there yet.
      if (value) return value;
      if (Date.now() > patience) throw new Error(`never came: ${what}; the page has:\n${await this.evaluate('document.body.innerText')}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  go(url) { return this.send('Page.navigate', {url}); }

  async look(width, height, scheme) {
    await this.send('Emulation.setDeviceMetricsOverride', {width, height, deviceScaleFactor: 1, mobile: false});
    await this.send('Emulation.setEmulatedMedia', {features: [{name: 'prefers-color-scheme', value: scheme}]});
  }

  /** The whole page as a PNG. */
  async screenshot(file) {
    const {data} = await this.send('Page.captureScreenshot', {format: 'png', captureBeyondViewport: true});
    fs.writeFileSync(file, Buffer.from(data, 'base64'));
  }

  async close() {
    await this.send('Browser.close').catch(() => {});
    await new Promise((resolve) => (this.browser.exitCode === null ? this.browser.once('exit', resolve) : resolve()));
    fs.rmSync(this.#home, {recursive: true, force: true, maxRetries: 5});
  }
};
