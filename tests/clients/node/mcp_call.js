// The SDK of MCP, with a fetch that repeats what ended without an answer: the same message, under the id it has.
'use strict';

const { Client } = require('@modelcontextprotocol/sdk/client/index.js');
const { StreamableHTTPClientTransport } = require('@modelcontextprotocol/sdk/client/streamableHttp.js');

const [base, options] = [process.argv[2], JSON.parse(process.argv[3])];
let said = [];
let failed = 0;

async function repeating(url, init) {
  for (let tries = 3; ; tries -= 1) {
    try {
      const answer = await fetch(url, init);
      if (init?.method === 'POST') said.push(answer.headers.get('idempotency-status'));
      return answer;
    } catch (error) {
      failed += 1;
      if (tries === 1) throw error;
    }
  }
}

async function play() {
  const transport = new StreamableHTTPClientTransport(new URL('/mcp', base), {
    fetch: repeating,
    requestInit: { headers: { authorization: options.caller } },
  });
  const client = new Client({ name: 'clients', version: '1.0.0' });
  await client.connect(transport);
  said = [];
  const call = async (name) => (await client.callTool({ name })).content[0].text;
  const [first, ofFirst] = [await call('pay'), said.at(-1)];
  const [second, count] = [await call('pay'), await call('count')];
  await client.close();
  return { first, said: ofFirst, second, count, failed };
}

play()
  .catch((error) => ({ error: error.name, message: `${error.message}: ${error.cause}` }))
  .then((seen) => {
    console.log(JSON.stringify(seen));
    process.exit(0);
  });
