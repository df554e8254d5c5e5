/** A daemon that is only a script: real HTTP on a real Unix socket, answers by `METHOD /path`. */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import type { TestContext } from 'node:test';
import { tempDir } from '../support/temp-dir.ts';

export interface FakeAnswer {
  status?: number;
  headers?: Record<string, string>;
  body?: unknown;
}

type Respond = (request: IncomingMessage, response: ServerResponse, body: string) => void;

export interface FakeDaemon {
  socketPath: string;
  /** every request so far: method and address, then its body when it had one */
  requests: string[];
}

export async function fakeDaemon(
  t: TestContext,
  script: Record<string, FakeAnswer | Respond>,
  onUpgrade?: (request: IncomingMessage, socket: Duplex) => void,
  name = 'd.sock',
): Promise<FakeDaemon> {
  const socketPath = join(await tempDir(t), name);
  const requests: string[] = [];
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    const line = `${request.method} ${request.url}`;
    requests.push(body === '' ? line : `${line} ${body}`);
    const entry = script[line];
    if (entry === undefined) response.writeHead(500).end(`no script for ${line}`);
    else if (typeof entry === 'function') entry(request, response, body);
    else answer(response, entry);
  });
  server.on('upgrade', (request, socket) => {
    requests.push(`${request.method} ${request.url} upgrade ${request.headers.upgrade}`);
    onUpgrade?.(request, socket);
  });
  await new Promise<void>((resolve) => server.listen(socketPath, resolve));
  t.after(() => {
    server.closeAllConnections();
    server.close();
  });
  return { socketPath, requests };
}

function answer(response: ServerResponse, { status = 200, headers = {}, body }: FakeAnswer): void {
  response.writeHead(status, { 'content-type': 'application/json', 'x-banger-version': '9.9.9', ...headers });
  response.end(body === undefined ? '' : JSON.stringify(body));
}
