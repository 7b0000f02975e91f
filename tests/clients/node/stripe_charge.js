// Stripe's library as it comes: it draws the key of the operation and repeats by itself.
'use strict';

const Stripe = require('stripe');

const [base, options] = [new URL(process.argv[2]), JSON.parse(process.argv[3])];
const stripe = new Stripe(options.caller.replace('Bearer ', ''), {
  host: base.hostname,
  port: base.port,
  protocol: 'http',
  timeout: options.timeout_ms ?? 80_000,
});
const key = options.key ? { idempotencyKey: options.key } : {};

stripe[options.resource]
  .create({ amount: options.amount ?? 4200, currency: 'eur' }, key)
  .then(({ id, lastResponse }) => ({
    status: lastResponse.statusCode,
    said: lastResponse.headers['idempotency-status'],
    id,
  }))
  .catch((error) => ({ status: error.statusCode, error: error.type, message: error.message }))
  .then((seen) => console.log(JSON.stringify(seen)));
