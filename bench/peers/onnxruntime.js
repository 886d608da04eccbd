// Times ONNX Runtime: node onnxruntime.js JOB.json, with onnxruntime-node to be found through NODE_PATH.
//
// JOB: {threads, seconds, cases: [{name, model, batches: [[sequences, tokens]]} or {name, model, tokens, past}]}.
// Prints a line {"name", "ms": [...]} for each case; a decoder's has one text, with `past` tokens behind it.
'use strict';
const fs = require('fs');
const ort = require('onnxruntime-node');

const LAYERS = 12, HEADS = 12, HEAD_SIZE = 64;
const job = JSON.parse(fs.readFileSync(process.argv[2]));

function integers(dims, value) {
  const data = new Int32Array(dims[0] * dims[1]);
  for (let i = 0; i < data.length; ++i) data[i] = value(i % dims[1]);
  return new ort.Tensor('int32', data, dims);
}

function feedsOf(spec) {
  if (spec.batches) {
    return spec.batches.map((dims) => ({
      ids: integers(dims, (i) => (1000 + 7919 * i) % 30522), types: integers(dims, () => 0)}));
  }
  const dims = [1, spec.tokens];
  const feeds = {
    ids: integers(dims, (i) => (1 + 7919 * i) % 50257), positions: integers(dims, (i) => spec.past + i)};
  const size = 2 * HEADS * spec.past * HEAD_SIZE;
  for (let layer = 0; layer < LAYERS; ++layer) {
    const data = new Float32Array(size);
    for (let i = 0; i < size; ++i) data[i] = Math.sin(i + layer);
    feeds[`past_${layer}`] = new ort.Tensor('float32', data, [2, 1, HEADS, spec.past, HEAD_SIZE]);
  }
  return [feeds];
}

async function main() {
  const sessions = {};
  for (const spec of job.cases) {
    try {
      sessions[spec.model] ??= await ort.InferenceSession.create(spec.model, {
        intraOpNumThreads: job.threads, interOpNumThreads: 1, executionMode: 'sequential',
        graphOptimizationLevel: 'all'});
      const session = sessions[spec.model];
      const feeds = feedsOf(spec);
      const once = async () => {
        const begin = process.hrtime.bigint();
        for (const feed of feeds) await session.run(feed, ['result']);
        return Number(process.hrtime.bigint() - begin) / 1e6;
      };
      const ms = [];
      if (feeds.length === 1) await once();  // A warm-up; many batches warm each other.
      const begin = Date.now();
      while (ms.length < 3 || (Date.now() - begin < 1000 * job.seconds && ms.length < 50)) {
        ms.push(await once());
        if (feeds.length > 1) break;
      }
      console.log(JSON.stringify({name: spec.name, ms}));
    } catch (error) {
      console.log(JSON.stringify({name: spec.name, error: String(error)}));
    }
  }
}

main();
