// jayson: it draws the id of a call, and repeats nothing; its caller repeats the same call, under the id it has.
'use strict';

const jayson = require('jayson');

const [base, options] = [new URL(process.argv[2]), JSON.parse(process.argv[3])];
const headers = { authorization: options.caller };
const client = jayson.Client.http({ host: base.hostname, port: base.port, path: '/rpc', headers, agent: false });
let said;
client.on('http response', (response) => {
  said = response.headers['idempotency-status'];
});

const call = client.request('pay', [10], undefined, false);
const attempt = (tries) =>
  client.request(call, (error, failure, result) => {
    if (error && tries > 1) return attempt(tries - 1);
    console.log(JSON.stringify({ said, id: call.id, result, error: (error ?? failure)?.message }));
  });
attempt(3);
