/** Client for one VMM's API socket: requests one at a time, errors as BangerErrors. */
import { createConnection } from 'node:net';
import { singleConnectionAgent, type UnixAnswer, unixRequest } from '../client/open-stream.ts';
import { BangerError, messageOf } from '../errors.ts';
import type { InstanceInfo } from './api-types.ts';
import { describeInstance, type VmmRequest } from './requests.ts';

/** Firecracker's own tests demand every call within 700 ms; a busy host and an emulated VMM get more. */
const CALL_TIMEOUT_MS = 20_000;

export interface VmmApi extends AsyncDisposable {
  /**
   * @param timeoutMs for what takes long in a VMM, in `ms`
   * @throws BangerError `vmm_failed` with the VMM's own words when it refuses, does not answer or is gone
   */
  send(request: VmmRequest, timeoutMs?: number): Promise<unknown>;
}

export function connectVmm(socketPath: string): VmmApi {
  const agent = singleConnectionAgent();
  const send = async (request: VmmRequest, timeoutMs = CALL_TIMEOUT_MS): Promise<unknown> => {
    const answer = await exchange(socketPath, request, agent, timeoutMs);
    if (answer.status >= 400) {
      throw new BangerError(
        'vmm_failed',
        `The VMM refused ${request.method} ${request.path}: ${faultMessage(answer)}`,
        {
          details: { status: answer.status, method: request.method, path: request.path },
        },
      );
    }
    return answer.text ? JSON.parse(answer.text) : undefined;
  };
  return {
    send,
    async [Symbol.asyncDispose]() {
      agent.destroy();
    },
  };
}

/**
 * Asks a VMM on a connection of its own who it is, which shows whether it works. Every running one is asked again and
 * again, so this costs a tenth of what Node's HTTP client takes.
 * @returns `silent` when it has not answered within `limitMs`
 * @throws BangerError `vmm_failed` when there is none, or its answer is none
 */
export function describeVmm(socketPath: string, limitMs: number): Promise<InstanceInfo | 'silent'> {
  const { method, path } = describeInstance();
  const { promise, resolve, reject } = Promise.withResolvers<InstanceInfo | 'silent'>();
  const fail = (reason: string, cause?: unknown) =>
    reject(new BangerError('vmm_failed', `The VMM did not answer ${method} ${path}: ${reason}`, { cause }));
  const connection = createConnection(socketPath);
  const timer = setTimeout(() => resolve('silent'), limitMs).unref();
  let text = '';
  connection.setEncoding('utf8');
  connection.on('data', (chunk: string) => {
    text += chunk;
    try {
      const body = wholeBody(text);
      if (body !== undefined) resolve(JSON.parse(body) as InstanceInfo);
    } catch (error) {
      fail(messageOf(error), error);
    }
  });
  connection.once('error', (error) => fail(messageOf(error), error));
  connection.once('end', () => fail('it closed the connection'));
  connection.write(`${method} ${path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n\r\n`);
  return promise.finally(() => {
    clearTimeout(timer);
    connection.destroy();
  });
}

/** No answer that says who a VMM is comes near. */
const MAX_ANSWER_LENGTH = 64 * 1024;

/**
 * Body of an answer that is there as a whole; its text is ASCII, as ids are.
 * @throws Error when it is another answer than was asked for
 */
function wholeBody(text: string): string | undefined {
  if (text.length > MAX_ANSWER_LENGTH) throw new Error('it says too much');
  const end = text.indexOf('\r\n\r\n');
  if (end < 0) return undefined;
  if (!/^HTTP\/1\.1 200\b/.test(text)) throw new Error(`it says ${text.slice(0, text.indexOf('\r\n'))}`);
  const length = Number(/^content-length: *(\d+)/im.exec(text)?.[1]);
  if (!(length > 0)) throw new Error('its answer has no length');
  return text.length >= end + 4 + length ? text.slice(end + 4, end + 4 + length) : undefined;
}

/**
 * Calls `onEnd` once when the VMM's socket closes, which is when its process ends, however that happens and
 * whoever started it. Needs no polling: neither Firecracker nor fcqemu ever closes an idle connection.
 * @returns a function that stops watching
 */
export function watchVmm(socketPath: string, onEnd: () => void): () => void {
  const connection = createConnection(socketPath);
  let watching = true;
  const end = () => {
    if (watching) onEnd();
    watching = false;
  };
  connection.on('error', () => {}); // 'close' follows
  connection.once('close', end);
  connection.resume();
  connection.unref();
  return () => {
    watching = false;
    connection.destroy();
  };
}

async function exchange(
  socketPath: string,
  request: VmmRequest,
  agent: UnixRequestAgent,
  timeoutMs: number,
): Promise<UnixAnswer> {
  try {
    return await unixRequest({ socketPath, ...request, agent, timeoutMs });
  } catch (error) {
    throw new BangerError(
      'vmm_failed',
      `The VMM did not answer ${request.method} ${request.path}: ${messageOf(error)}`,
      {
        cause: error,
      },
    );
  }
}

type UnixRequestAgent = ReturnType<typeof singleConnectionAgent>;

/**
 * API errors are `{"fault_message": …}`; transport errors are `{ "error": "…" }` with a raw newline inside the
 * string, which no JSON parser takes.
 */
export function faultMessage(answer: Pick<UnixAnswer, 'status' | 'text'>): string {
  const match = /"(?:fault_message|error)"\s*:\s*"([\s\S]*)"\s*\}/.exec(answer.text);
  const raw = match?.[1];
  if (raw === undefined) return `status ${answer.status}${answer.text ? `: ${answer.text.trim().slice(0, 500)}` : ''}`;
  return raw.replaceAll('\\"', '"').replaceAll('\\n', ' ').replaceAll('\n', ' ').trim();
}
