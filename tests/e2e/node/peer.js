// Starts thresherd and makes gRPC clients of it with Node's own stack.
'use strict';
const {spawn} = require('node:child_process');
const {once} = require('node:events');
const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const source = process.env.PEER_SOURCE_DIR;
const model = path.join(source, 'models', 'sst2-mini');

function load(file) {
  const definition = loader.loadSync(file, {
    keepCase: true,
    longs: Number,
    enums: String,
    defaults: true,
    oneofs: true,
    includeDirs: [path.join(source, 'proto'), __dirname],
  });
  return grpc.loadPackageDefinition(definition);
}

const packages = {
  inference: load('inference/open_inference_grpc.proto').inference,
  thresher: load('thresher/v1/thresher.proto').thresher.v1,
  health: load('grpc/health/v1/health.proto').grpc.health.v1,
  reflection: load('reflection.proto').grpc.reflection.v1alpha,
};

// A running server; stop() asks it to end and gives its exit code.
async function startServer(...flags) {
  const child = spawn(process.env.PEER_THRESHERD, [
    '--listen', '127.0.0.1:0', '--http', '127.0.0.1:0', '--model', `sst2-mini=${model}`, ...flags,
  ], {stdio: ['ignore', 'pipe', 'pipe']});
  let log = '';
  child.stderr.on('data', (chunk) => { log += chunk; });
  const exited = once(child, 'exit');
  const [address, http] = await new Promise((resolve, reject) => {
    let output = '';
    child.stdout.on('data', (chunk) => {
      output += chunk;
      const match = /^serving grpc=(\S+) http=(\S+) models=\d+\n/.exec(output);
      if (match) resolve(match.slice(1));
    });
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`thresherd ended with ${code}:\n${log}`)));
  });
  const open = [];
  const connect = (Service) => {
    const client = new Service(address, grpc.credentials.createInsecure());
    open.push(client);
    return client;
  };
  return {
    address,
    inference: connect(packages.inference.GRPCInferenceService),
    thresher: connect(packages.thresher.Thresher),
    health: connect(packages.health.Health),
    reflection: connect(packages.reflection.ServerReflection),
    // The value of a series of /metrics without labels.
    async metric(name) {
      const text = await (await fetch(`http://${http}/metrics`)).text();
      return Number(new RegExp(`^${name} (.*)$`, 'm').exec(text)[1]);
    },
    async stop(signal = 'SIGTERM') {
      child.kill(signal);
      const [code] = await exited;
      for (const client of open) client.close();
      return code;
    },
  };
}

// One unary call as a promise.
function call(client, method, request = {}, options = {}) {
  return new Promise((resolve, reject) => {
    client[method](request, options, (error, response) => {
      if (error) reject(error);
      else resolve(response);
    });
  });
}

module.exports = {call, grpc, startServer};
