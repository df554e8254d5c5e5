/** Answers that are read while they come: by Node's HTTP client, which can tell the end of one from a cut. */
import { request as httpRequest, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { timerMs } from '../units.ts';

export interface StreamRequest {
  socketPath: string;
  method: string;
  path: string;
  /** limit in `ms` until the head of the answer is there; none by default */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

/** Returns when the head of the answer is there; rejects with Node's own error when the socket does not answer. */
export function openStream({ socketPath, method, path, timeoutMs, signal }: StreamRequest): Promise<IncomingMessage> {
  const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
  // dialling here instead of by an agent saves the 5 ms it takes to ask whether "localhost" is an IP address
  const request = httpRequest({ method, path, signal, createConnection: () => connect(socketPath) });
  const onTimeout = () => {
    const error = new Error(`no answer within ${timeoutMs} ms`);
    request.destroy(Object.assign(error, { code: 'ETIMEDOUT' }));
  };
  const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timerMs(timeoutMs));
  request.once('response', resolve);
  // on, not once: a request that was answered can still fail, and its answer says so
  request.on('error', reject);
  request.end();
  return promise.finally(() => clearTimeout(timer));
}
