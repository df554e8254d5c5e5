/** HTTP over a Unix socket: global `fetch` cannot dial one. Serves Firecracker's API and the daemon's. */
import { Agent, request as httpRequest, type IncomingHttpHeaders, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';

export interface UnixRequest {
  socketPath: string;
  method: string;
  path: string;
  /** sent as JSON with its exact length: Firecracker takes no chunked bodies */
  body?: unknown;
  /** limit in `ms` until the whole answer is there; none by default */
  timeoutMs?: number;
  signal?: AbortSignal;
  agent?: Agent;
}

export interface UnixAnswer {
  status: number;
  headers: IncomingHttpHeaders;
  text: string;
}

/** Sends a request and reads the whole answer; rejects with Node's own error when the socket does not answer. */
export async function unixRequest(options: UnixRequest): Promise<UnixAnswer> {
  const response = await openUnixRequest(options);
  const chunks: Buffer[] = [];
  for await (const chunk of response) chunks.push(chunk as Buffer);
  return {
    status: response.statusCode ?? 0,
    headers: response.headers,
    text: Buffer.concat(chunks).toString('utf8'),
  };
}

/** Sends a request and returns when the head of the answer is there, for streamed answers. */
export function openUnixRequest(options: UnixRequest): Promise<IncomingMessage> {
  const payload = options.body === undefined ? undefined : Buffer.from(JSON.stringify(options.body));
  const signals = [
    ...(options.signal ? [options.signal] : []),
    ...(options.timeoutMs === undefined ? [] : [AbortSignal.timeout(options.timeoutMs)]),
  ];
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  const request = httpRequest({
    socketPath: options.socketPath,
    method: options.method,
    path: options.path,
    headers: payload ? { 'Content-Type': 'application/json', 'Content-Length': payload.length } : {},
    // dialling here instead of by a new agent saves the 5 ms it takes to ask whether "localhost" is an IP address
    ...(options.agent ? { agent: options.agent } : { createConnection: () => connect(options.socketPath) }),
    ...(signals.length > 0 ? { signal: AbortSignal.any(signals) } : {}),
  });
  request.once('response', resolve);
  request.once('error', reject);
  request.end(payload);
  return promise;
}

/** An agent that keeps exactly one connection open, as a peer that answers one request at a time wants it. */
export function singleConnectionAgent(): Agent {
  return new Agent({ keepAlive: true, maxSockets: 1 });
}
