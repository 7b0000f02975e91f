// axios with axios-retry as it comes: it repeats what ended without an answer, POST too.
'use strict';

const axios = require('axios');
const axiosRetry = require('axios-retry');

const [base, options] = [process.argv[2], JSON.parse(process.argv[3])];
const client = axios.create({ baseURL: base, headers: { authorization: options.caller } });
axiosRetry.default(client, { retries: 3 });
const headers = options.key ? { 'idempotency-key': options.key } : {};

client
  .post(options.path, { amount: 4200 }, { headers })
  .then(({ status, headers, data }) => ({ status, said: headers['idempotency-status'], id: data.id }))
  .catch((error) => ({ status: error.response?.status, error: error.code, message: error.message }))
  .then((seen) => console.log(JSON.stringify(seen)));
