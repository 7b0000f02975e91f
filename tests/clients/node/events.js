// Events as libraries write them, delivered again after a lost answer: CloudEvents in either mode, Standard Webhooks.
'use strict';

const { CloudEvent, HTTP } = require('cloudevents');
const { Webhook } = require('standardwebhooks');

const [base, options] = [process.argv[2], JSON.parse(process.argv[3])];
const event = new CloudEvent({ id: `e-${options.kind}`, source: '/shop', type: 'paid', data: { order: 7 } });
const payload = JSON.stringify({ type: 'paid', data: { order: 7 } });

// What one delivery says: timestamps, and what is signed over them, are those of the delivery.
function write(delivery) {
  if (options.kind === 'webhook') {
    const time = new Date(Date.now() + delivery * 1000);
    const signature = new Webhook('c2VjcmV0').sign('msg_1', time, payload);
    const timestamp = String(Math.floor(time.getTime() / 1000));
    const signed = { 'webhook-id': 'msg_1', 'webhook-timestamp': timestamp, 'webhook-signature': signature };
    return { path: '/webhooks/shop', headers: { 'content-type': 'application/json', ...signed }, body: payload };
  }
  const { headers, body } = HTTP[options.kind](event.cloneWith({ time: new Date(Date.now() + delivery).toISOString() }));
  return { path: '/hooks/shop', headers, body };
}

async function deliver(delivery) {
  const { path, headers, body } = write(delivery);
  const sent = { ...headers, authorization: options.caller };
  try {
    const answer = await fetch(base + path, { method: 'POST', headers: sent, body });
    return { status: answer.status, said: answer.headers.get('idempotency-status'), id: (await answer.json()).id };
  } catch (error) {
    return delivery < 3 ? deliver(delivery + 1) : { error: error.message };
  }
}

deliver(1).then((seen) => console.log(JSON.stringify(seen)));
