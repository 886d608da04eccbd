// The server as Node's gRPC stack (an implementation of its own, not the one it is built with) sees
// it: every Open Inference call, health, reflection, deadlines, cancellation, every bad input.
'use strict';
const assert = require('node:assert/strict');
const {after, before, describe, test} = require('node:test');
const {call, grpc, startServer} = require('./peer.js');

const {status} = grpc;
const source = process.env.PEER_SOURCE_DIR;
const timeout = 120_000;  // Against a hang.

let server;
before(async () => { server = await startServer('--max-message-bytes', '65536'); }, {timeout});
after(async () => { assert.equal(await server.stop(), 0); }, {timeout});

const infer = (request) => call(server.inference, 'ModelInfer', {model_name: 'sst2-mini', ...request});

function texts(...values) {
  return {
    name: 'text',
    datatype: 'BYTES',
    shape: [values.length],
    contents: {bytes_contents: values.map((text) => Buffer.from(text))},
  };
}

function ids(rows, datatype = 'INT64') {
  const field = datatype === 'INT64' ? 'int64_contents' : 'int_contents';
  return {
    name: 'input_ids',
    datatype,
    shape: [rows.length, rows[0].length],
    contents: {[field]: rows.flat()},
  };
}

// BYTES values as raw contents: a little-endian length before each.
function rawTexts(...values) {
  return Buffer.concat(values.flatMap((text) => {
    const length = Buffer.alloc(4);
    length.writeUInt32LE(Buffer.byteLength(text));
    return [length, Buffer.from(text)];
  }));
}

const output = (response, name) => response.outputs.find((tensor) => tensor.name === name);

describe('Open Inference', () => {
  test('server calls', async () => {
    assert.equal((await call(server.inference, 'ServerLive')).live, true);
    assert.equal((await call(server.inference, 'ServerReady')).ready, true);
    const metadata = await call(server.inference, 'ServerMetadata');
    assert.equal(metadata.name, 'thresher');
    assert.ok(metadata.extensions.includes('statistics'));
  });

  test('model calls', async () => {
    const ready = await call(server.inference, 'ModelReady', {name: 'sst2-mini'});
    assert.equal(ready.ready, true);
    const metadata = await call(server.inference, 'ModelMetadata', {name: 'sst2-mini'});
    assert.equal(metadata.name, 'sst2-mini');
    assert.deepEqual(metadata.versions, ['1']);
    assert.equal(metadata.inputs.find(({name}) => name === 'text').datatype, 'BYTES');
    assert.deepEqual(metadata.outputs.find(({name}) => name === 'logits').shape, [-1, 2]);
    const {config} = await call(server.inference, 'ModelConfig', {name: 'sst2-mini'});
    assert.equal(config.name, 'sst2-mini');
    assert.ok(config.max_batch_size > 0);
    assert.equal(config.input.find(({name}) => name === 'text').data_type, 'TYPE_STRING');
  });

  test('typed texts give typed outputs', async () => {
    const response = await infer({id: 'seven', inputs: [texts('a moving film', 'dull')]});
    assert.equal(response.id, 'seven');
    assert.equal(response.model_name, 'sst2-mini');
    assert.equal(response.model_version, '1');
    assert.equal(response.raw_output_contents.length, 0);
    const labels = output(response, 'label').contents.bytes_contents.map(String);
    assert.deepEqual(labels, ['positive', 'negative']);
    assert.deepEqual(output(response, 'logits').shape, [2, 2]);
    assert.equal(output(response, 'logits').contents.fp32_contents.length, 4);
  });

  test('raw texts give raw outputs with the same numbers', async () => {
    const typed = await infer({inputs: [texts('a moving film', 'dull')]});
    const raw = await infer({
      inputs: [{name: 'text', datatype: 'BYTES', shape: [2]}],
      raw_input_contents: [rawTexts('a moving film', 'dull')],
      outputs: [{name: 'logits'}],
    });
    assert.deepEqual(raw.outputs.map(({name}) => name), ['logits']);
    assert.equal(raw.raw_output_contents[0].length, 16);
    const numbers = [0, 4, 8, 12].map((at) => raw.raw_output_contents[0].readFloatLE(at));
    assert.deepEqual(numbers, output(typed, 'logits').contents.fp32_contents);
  });

  test('token ids give what their text gives', async () => {
    const {results: [{tokens}]} = await call(server.thresher, 'Tokenize', {
      model: {name: 'sst2-mini'}, inputs: [{text: 'a moving film'}],
    });
    const row = tokens.map(({id}) => id);
    const fromText = output(await infer({inputs: [texts('a moving film')]}), 'logits');
    for (const datatype of ['INT64', 'INT32']) {
      const fromIds = output(await infer({inputs: [ids([row], datatype)]}), 'logits');
      assert.deepEqual(fromIds.contents.fp32_contents, fromText.contents.fp32_contents);
    }
    // A padded row ends where its attention mask does.
    const padded = await infer({inputs: [
      ids([[...row, 0, 0]]),
      {...ids([[...row.map(() => 1), 0, 0]]), name: 'attention_mask'},
    ]});
    assert.deepEqual(output(padded, 'logits').contents.fp32_contents,
                     fromText.contents.fp32_contents);
  });

  test('parameters come as any kind of number', async () => {
    for (const value of [{double_param: 1}, {int64_param: 1}, {uint64_param: 1},
                         {string_param: '1'}]) {
      await infer({inputs: [texts('fine')], parameters: {priority: value}});
    }
  });

  test('sparsity goes in and its report comes out as parameters', async () => {
    const ask = async (parameters) => (await infer({
      inputs: [texts('a gripping, moving film')],
      parameters: {sparsity: {string_param: 'spatten:final=0.4,heads=0.5'}, ...parameters},
    })).parameters;
    const plain = await ask({});
    assert.equal(plain.report, undefined);
    assert.match(plain.policy.string_param, /^spatten:final=0\.4/);
    for (const kind of ['token', 'head', 'value', 'score', 'qkv_row', 'ffn_full_precision']) {
      const [dense, done] = ['dense', 'done'].map((part) => +plain[`${kind}_${part}`].int64_param);
      assert.ok(done < dense, kind);
      assert.equal(plain[`keep_${kind}`].double_param, done / dense);
    }
    assert.ok(+plain.bytes_done.int64_param < +plain.bytes_dense.int64_param);
    assert.equal(plain.refetch_share.double_param, 0);
    for (const explain of [{bool_param: true}, {double_param: 1}, {int64_param: 1},
                           {string_param: 'true'}]) {
      const [report] = JSON.parse((await ask({explain})).report.string_param);
      assert.equal(report.layers.length, 6);
      assert.equal(report.tokens[0].text, '[CLS]');
      assert.equal(report.tokens[0].layers, 6);
    }
  });

  test('a stream answers every request by its id, errors included', async () => {
    const stream = server.inference.ModelStreamInfer();
    const answers = new Map();
    const ended = new Promise((resolve, reject) => {
      stream.on('data', (message) => answers.set(message.infer_response.id, message));
      stream.on('end', resolve);
      stream.on('error', reject);
    });
    for (let i = 0; i < 10; ++i) {
      stream.write({model_name: i === 3 ? 'nobody' : 'sst2-mini', id: `${i}`,
                    inputs: [texts(`film ${i}`)]});
    }
    stream.end();
    await ended;
    assert.equal(answers.size, 10);
    assert.match(answers.get('3').error_message, /nobody/);
    assert.equal(answers.get('4').error_message, '');
    assert.equal(answers.get('4').infer_response.outputs.length, 3);
  }, {timeout});

  test('statistics count', async () => {
    const count = async () => {
      const {model_stats: [stats]} =
          await call(server.inference, 'ModelStatistics', {name: 'sst2-mini'});
      assert.equal(stats.name, 'sst2-mini');
      return {inferences: stats.inference_count, calls: stats.inference_stats.success.count};
    };
    const begin = await count();
    await infer({inputs: [texts('one', 'two', 'three')]});
    const end = await count();
    assert.equal(end.inferences - begin.inferences, 3);
    assert.equal(end.calls - begin.calls, 1);
  });

  test('the repository lists, unloads and loads', async () => {
    const index = async () => (await call(server.inference, 'RepositoryIndex')).models;
    assert.deepEqual((await index()).map(({name, state}) => [name, state]),
                     [['sst2-mini', 'READY']]);
    await call(server.inference, 'RepositoryModelUnload', {model_name: 'sst2-mini'});
    await assert.rejects(infer({inputs: [texts('x')]}),
                         ({code}) => code === status.UNAVAILABLE || code === status.NOT_FOUND);
    await call(server.inference, 'RepositoryModelLoad', {model_name: 'sst2-mini'});
    await infer({inputs: [texts('x')]});
    await assert.rejects(call(server.inference, 'RepositoryModelLoad', {model_name: 'nobody'}),
                         ({code}) => code === status.NOT_FOUND);
  }, {timeout});
});

describe('generation', () => {
  const request = {model: {name: 'gpt'}, prompt: {text: 'the'}, max_tokens: 8, ignore_eos: true};
  let decoder;
  before(async () => {
    decoder = await startServer('--model', `gpt=${source}/tests/golden/decoder-gpt2`);
  }, {timeout});
  after(async () => { assert.equal(await decoder.stop(), 0); }, {timeout});

  // All messages of a stream, or its error.
  const messages = (stream) => new Promise((resolve, reject) => {
    const all = [];
    stream.on('data', (message) => all.push(message));
    stream.on('error', reject);
    stream.on('end', () => resolve(all));
  });
  const wholeText = async () => (await messages(decoder.thresher.Generate(request)))
      .map(({tokens, end}) => tokens.map(({text}) => text).join('') + (end ? end.text : '')).join('');

  test('Generate streams tokens and ends', async () => {
    const all = await messages(decoder.thresher.Generate(request));
    assert.equal(all.flatMap(({tokens}) => tokens).length, 8);
    assert.equal(all.at(-1).end.finish_reason, 'length');
    assert.equal(all.at(-1).end.usage.generated_tokens, 8);
    assert.ok(all.slice(0, -1).every(({end}) => end === null));
    assert.equal(await decoder.metric('thresher_kv_cache_used_bytes'), 0);
  });

  test('ModelStreamInfer answers one prompt many times', async () => {
    const stream = decoder.inference.ModelStreamInfer();
    const answers = messages(stream);
    stream.write({model_name: 'gpt', inputs: [texts('the')],
                  parameters: {max_tokens: {int64_param: 8}, ignore_eos: {bool_param: true}}});
    stream.end();
    const parts = (await answers).map(({infer_response: part}) => part);
    assert.deepEqual(parts.map(({parameters}) => parameters.triton_final_response.bool_param),
                     [...Array(8).fill(false), true]);
    const text = parts.map((part) => output(part, 'text').contents.bytes_contents[0]).join('');
    assert.equal(text, await wholeText());
  });

  test('a bad request is the status of the stream', async () => {
    await assert.rejects(
        messages(decoder.thresher.Generate({...request, stop: ['']})),
        ({code, details}) => code === status.INVALID_ARGUMENT && /stop\[0\]/.test(details));
    await assert.rejects(call(decoder.inference, 'ModelInfer',
                              {model_name: 'gpt', inputs: [texts('a', 'b')]}),
                         ({code}) => code === status.INVALID_ARGUMENT);
  });

  test('a stream that is cancelled leaves nothing', async () => {
    const stream = decoder.thresher.Generate({...request, max_tokens: 40});
    const ended = messages(stream);
    stream.cancel();
    await ended.catch(({code}) => assert.equal(code, status.CANCELLED));
    assert.equal(await wholeText(), await wholeText());
    assert.equal(await decoder.metric('thresher_kv_cache_used_bytes'), 0);
  });
});

describe('bad input gets its status and leaves the server well', () => {
  const wrong = (name, code, pattern, request) => test(name, async () => {
    await assert.rejects(infer(request), (error) => {
      assert.equal(status[error.code], status[code], error.message);
      assert.match(error.details, pattern);
      return true;
    });
    await infer({inputs: [texts('fine')]});
  });
  const {INVALID_ARGUMENT, NOT_FOUND, RESOURCE_EXHAUSTED} = status;

  wrong('unknown model', NOT_FOUND, /nobody/, {model_name: 'nobody', inputs: [texts('x')]});
  wrong('unknown version', NOT_FOUND, /77/, {model_version: '77', inputs: [texts('x')]});
  wrong('version that is no number', NOT_FOUND, /new/, {model_version: 'new', inputs: [texts('x')]});
  wrong('no inputs', INVALID_ARGUMENT, /./, {});
  wrong('unknown tensor', INVALID_ARGUMENT, /'image'/, {inputs: [{...texts('x'), name: 'image'}]});
  wrong('unknown output', INVALID_ARGUMENT, /'boxes'/,
        {inputs: [texts('x')], outputs: [{name: 'boxes'}]});
  wrong('tensor sent twice', INVALID_ARGUMENT, /'text'/, {inputs: [texts('x'), texts('y')]});
  wrong('wrong datatype', INVALID_ARGUMENT, /'text'.*FP32/,
        {inputs: [{...texts('x'), datatype: 'FP32'}]});
  wrong('contents of another type', INVALID_ARGUMENT, /'text'/,
        {inputs: [{...texts('x'), contents: {fp32_contents: [1]}}]});
  wrong('shape that its contents do not fill', INVALID_ARGUMENT, /'text'.*\[2\]/,
        {inputs: [{...texts('x'), shape: [2]}]});
  wrong('shape of the wrong rank', INVALID_ARGUMENT, /'text'/,
        {inputs: [{...texts('x'), shape: [1, 1, 1]}]});
  wrong('negative shape', INVALID_ARGUMENT, /-1/, {inputs: [{...texts('x'), shape: [-1]}]});
  wrong('absurd shape', INVALID_ARGUMENT, /'input_ids'/,
        {inputs: [{...ids([[2, 3]]), shape: [256, Number.MAX_SAFE_INTEGER]}]});
  wrong('both typed and raw contents', INVALID_ARGUMENT, /both typed/,
        {inputs: [texts('x')], raw_input_contents: [rawTexts('x')]});
  wrong('fewer raw contents than inputs', INVALID_ARGUMENT, /raw_input_contents/,
        {inputs: [{...texts('x'), contents: null}, {...texts('y'), name: 'text_pair', contents: null}],
         raw_input_contents: [rawTexts('x')]});
  wrong('raw contents cut short', INVALID_ARGUMENT, /'text'/,
        {inputs: [{...texts('x'), contents: null}], raw_input_contents: [Buffer.from([9, 0, 0, 0, 65])]});
  wrong('token id out of range', INVALID_ARGUMENT, /8000|out of range|99999/,
        {inputs: [ids([[2, 99999, 3]])]});
  wrong('negative token id', INVALID_ARGUMENT, /-5/, {inputs: [ids([[2, -5, 3]])]});
  wrong('text over the length limit', INVALID_ARGUMENT, /./, {inputs: [texts('film '.repeat(2000))]});
  wrong('invalid UTF-8', INVALID_ARGUMENT, /UTF-8/, {
    inputs: [{...texts('x'), contents: {bytes_contents: [Buffer.from([0x62, 0xff])]}}],
  });
  wrong('empty text', INVALID_ARGUMENT, /empty/, {inputs: [texts('')]});
  wrong('one bad row names itself', INVALID_ARGUMENT, /\b1\b/, {inputs: [texts('fine', '')]});
  wrong('oversized message', RESOURCE_EXHAUSTED, /./, {inputs: [texts('x'.repeat(100_000))]});
  wrong('ratio out of range', INVALID_ARGUMENT, /keep='1\.5'/,
        {inputs: [texts('x')], parameters: {sparsity: {string_param: 'spatten:keep=1.5'}}});
  wrong('a policy beside a bound', INVALID_ARGUMENT, /max_quality_loss/,
        {inputs: [texts('x')], parameters: {sparsity: {string_param: 'dense'},
                                            max_quality_loss: {double_param: 0.01}}});
  wrong('unknown sparsity policy', INVALID_ARGUMENT, /no-such/,
        {inputs: [texts('x')], parameters: {sparsity: {string_param: 'no-such'}}});

  test('a text over the limit is cut on request', async () => {
    await infer({inputs: [texts('film '.repeat(2000))], parameters: {truncate: {bool_param: true}}});
  });

  test('one bad text of thresher.v1 fails alone', async () => {
    const {results} = await call(server.thresher, 'Classify', {
      model: {name: 'sst2-mini'}, inputs: [{text: 'fine'}, {text: ''}],
    });
    assert.equal(results[0].info.status?.code ?? 0, status.OK);
    assert.equal(results[1].info.status.code, INVALID_ARGUMENT);
  });
});

describe('health', () => {
  test('Check knows the server and its services', async () => {
    for (const service of ['', 'thresher.v1.Thresher', 'inference.GRPCInferenceService']) {
      assert.equal((await call(server.health, 'Check', {service})).status, 'SERVING');
    }
    await assert.rejects(call(server.health, 'Check', {service: 'nobody'}),
                         ({code}) => code === status.NOT_FOUND);
  });

  test('Watch tells of the stop, and does not delay it', async () => {
    const other = await startServer();
    const seen = [];
    const watch = other.health.Watch({service: ''});
    const closed = new Promise((resolve) => {
      watch.on('error', resolve);
      watch.on('end', resolve);
    });
    await new Promise((resolve) => {
      watch.on('data', (message) => {
        seen.push(message.status);
        resolve();
      });
    });
    assert.deepEqual(seen, ['SERVING']);
    assert.equal(await other.stop(), 0);
    await closed;
    assert.deepEqual(seen, ['SERVING', 'NOT_SERVING']);
  }, {timeout});
});

describe('reflection', () => {
  const ask = (request) => new Promise((resolve, reject) => {
    const stream = server.reflection.ServerReflectionInfo();
    stream.on('data', (response) => {
      resolve(response);
      stream.end();
    });
    stream.on('error', reject);
    stream.write(request);
  });

  test('lists every service', async () => {
    const {list_services_response: {service}} = await ask({list_services: ''});
    const names = service.map(({name}) => name);
    for (const name of ['thresher.v1.Thresher', 'inference.GRPCInferenceService',
                        'grpc.health.v1.Health',
                        'grpc.reflection.v1alpha.ServerReflection']) {
      assert.ok(names.includes(name), `${name} is not among ${names}`);
    }
  });

  test('gives the schema of each service', async () => {
    for (const name of ['thresher.v1.Thresher', 'inference.GRPCInferenceService']) {
      const {file_descriptor_response: file} = await ask({file_containing_symbol: name});
      assert.ok(file.file_descriptor_proto.length > 0);
    }
  });
});

describe('pressure', () => {
  const classify = (...texts) => ({
    model: {name: 'sst2-mini'}, inputs: texts.map((text) => ({text})),
  });
  const eventually = async (condition) => { while (!await condition()) {} };

  test('a deadline ends a call that waits', async () => {
    const slow = await startServer('--device', 'reference');
    const long = Array(16).fill('film '.repeat(126));
    const work = call(slow.thresher, 'Classify', classify(...long));
    await eventually(async () => await slow.metric('thresher_running_sequences') === 16);
    await assert.rejects(
        call(slow.thresher, 'Classify', classify('a film'), {deadline: Date.now() + 100}),
        ({code}) => code === status.DEADLINE_EXCEEDED);
    assert.equal((await work).results.length, 16);
    assert.equal(await slow.stop(), 0);
  }, {timeout});

  test('a full queue refuses, a cancelled call leaves it', async () => {
    // Calls without a deadline wait here until one with a deadline comes.
    const held = await startServer('--max-batch-delay', '10m', '--max-queue', '3');
    let pending;
    const ended = new Promise((resolve) => {
      pending = held.thresher.Classify(classify('a film', 'a play'), resolve);
    });
    await eventually(async () => await held.metric('thresher_queue_depth') === 2);
    await assert.rejects(call(held.thresher, 'Classify', classify('one', 'two')),
                         ({code}) => code === status.RESOURCE_EXHAUSTED);
    pending.cancel();
    assert.equal((await ended).code, status.CANCELLED);
    await call(held.thresher, 'Classify', classify('one'), {deadline: Date.now() + 60_000});
    await eventually(async () => await held.metric('thresher_queue_depth') === 0);
    assert.equal(await held.stop(), 0);
  }, {timeout});
});
