// A server of MCP with one tool that pays, and another that says how often it has; it answers in JSON.
'use strict';

const { randomUUID } = require('node:crypto');
const http = require('node:http');
const { text } = require('node:stream/consumers');
const { McpServer } = require('@modelcontextprotocol/sdk/server/mcp.js');
const {
  WebStandardStreamableHTTPServerTransport: Transport,
} = require('@modelcontextprotocol/sdk/server/webStandardStreamableHttp.js');

let paid = 0;
const sessions = new Map();
const said = (words) => ({ content: [{ type: 'text', text: String(words) }] });

async function open() {
  const server = new McpServer({ name: 'payments', version: '1.0.0' });
  server.registerTool('pay', { description: 'Pays.' }, async () => said((paid += 1)));
  server.registerTool('count', { description: 'Says how often it has paid.' }, async () => said(paid));
  const transport = new Transport({
    sessionIdGenerator: randomUUID,
    enableJsonResponse: true,
    onsessioninitialized: (id) => sessions.set(id, transport),
  });
  await server.connect(transport);
  return transport;
}

async function answer(request) {
  // "return HTTP 405 Method Not Allowed, indicating that the server does not offer an SSE stream at this endpoint".
  if (request.method === 'GET') return new Response(null, { status: 405 });
  const transport = sessions.get(request.headers['mcp-session-id']) ?? (await open());
  const { method, headers } = request;
  return transport.handleRequest(new Request('http://127.0.0.1/mcp', { method, headers, body: await text(request) }));
}

const listener = http.createServer(async (request, response) => {
  const { status, headers, body } = await answer(request).then(async (answer) => ({
    status: answer.status,
    headers: Object.fromEntries(answer.headers),
    body: Buffer.from(await answer.arrayBuffer()),
  }));
  response.writeHead(status, { ...headers, 'content-length': body.length }).end(body);
});
listener.listen(0, '127.0.0.1', () => console.log(`listens on 127.0.0.1:${listener.address().port}.`));
