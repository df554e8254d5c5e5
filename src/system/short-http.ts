/**
 * Short HTTP over a Unix socket: a question, and an answer that is read as a whole or says itself when it is over. Node's
 * own client does more, and takes a process that asks once 10 ms to load and set up: a third of what a whole command takes.
 */
import { connect, type Socket } from 'node:net';
import { addAbortSignal, type Duplex } from 'node:stream';
import { timerMs } from '../units.ts';

export interface HttpQuestion {
  method: string;
  path: string;
  /** sent as JSON with its exact length: Firecracker takes no chunked bodies */
  body?: unknown;
  /** limit in `ms` until the whole answer is there; none by default */
  timeoutMs?: number | undefined;
  signal?: AbortSignal | undefined;
}

export interface HttpAnswer {
  status: number;
  /** names in lower case */
  headers: ReadonlyMap<string, string>;
  text: string;
}

/** A connection that is kept for one question after another. */
export interface HttpConnection extends Disposable {
  /** Waits for its turn, then asks. A question that failed closes the connection; the next one opens another. */
  ask(question: HttpQuestion): Promise<HttpAnswer>;
}

/** Status line and headers of any peer banger speaks to are shorter. */
const MAX_HEAD_BYTES = 64 * 1024;

/**
 * Asks on a connection of its own, in HTTP/1.0: no body comes in chunks.
 * @throws Error Node's own when the socket does not answer; `ECONNRESET` when the answer is cut short or is none,
 *   `ETIMEDOUT` when it takes too long; an `AbortError` when the signal says so
 */
export async function ask(socketPath: string, question: HttpQuestion): Promise<HttpAnswer> {
  const socket = dial(socketPath);
  try {
    return await exchange(socket, question, '1.0');
  } finally {
    socket.destroy();
  }
}

/** The connection is opened by the first question. Its questions fail as those of `ask` do. */
export function openConnection(socketPath: string): HttpConnection {
  let socket: Socket | undefined;
  let last: Promise<unknown> = Promise.resolve();
  const askNow = async (question: HttpQuestion): Promise<HttpAnswer> => {
    socket = socket?.writable ? socket.ref() : dial(socketPath);
    try {
      const answer = await exchange(socket, question, '1.1');
      // nothing more is to come but the end, which is seen by reading on
      socket.resume().unref();
      return answer;
    } catch (error) {
      socket.destroy();
      throw error;
    }
  };
  return {
    ask(question) {
      const answer = last.then(() => askNow(question));
      last = answer.catch(() => {});
      return answer;
    },
    [Symbol.dispose]: () => void socket?.destroy(),
  };
}

/** The connection, with its new protocol or the body of the answer, or the ordinary answer that refuses it. */
export type UpgradeAnswer = HttpAnswer & { stream?: Duplex };

/** Asks for another protocol on the connection. Fails as `ask` does. */
export async function askUpgrade(socketPath: string, question: HttpQuestion, protocol: string): Promise<UpgradeAnswer> {
  const socket = dial(socketPath);
  let upgraded = false;
  try {
    const answer = await exchange(socket, question, '1.1', ['Connection: Upgrade', `Upgrade: ${protocol}`]);
    upgraded = answer.status === 101;
    return upgraded ? { ...answer, stream: socket } : answer;
  } finally {
    if (!upgraded) socket.destroy();
  }
}

/**
 * Asks for an answer that is read while it comes. Where it is cut short it only ends: its last part has to say that it is the
 * last. Fails as `ask` does; the signal ends the stream, too.
 */
export async function askStream(socketPath: string, question: HttpQuestion): Promise<UpgradeAnswer> {
  const socket = dial(socketPath);
  const answer = await exchange(socket, question, '1.0', [], ({ status }) => status === 200).catch((error) => {
    socket.destroy();
    throw error;
  });
  if (answer.status !== 200) {
    socket.destroy();
    return answer;
  }
  if (question.signal) addAbortSignal(question.signal, socket);
  return { ...answer, stream: socket };
}

/** In 1.0 no body comes in chunks; in 1.1 the connection stays open. */
type Version = '1.0' | '1.1';

function dial(socketPath: string): Socket {
  // between questions nobody else listens, and an error without a listener ends the process; 'close' follows
  return connect(socketPath).on('error', () => {});
}

function requestOf({ method, path, body }: HttpQuestion, version: Version, headers: readonly string[]): Buffer {
  const payload = Buffer.from(body === undefined ? '' : JSON.stringify(body));
  const bodyHeaders = body === undefined ? [] : ['Content-Type: application/json', `Content-Length: ${payload.length}`];
  const head = [`${method} ${path} HTTP/${version}`, ...bodyHeaders, 'Host: localhost', 'Accept: application/json'];
  return Buffer.concat([Buffer.from(`${[...head, ...headers].join('\r\n')}\r\n\r\n`), payload]);
}

/** What follows the answer on the connection is left for its next reader. */
async function exchange(
  socket: Socket,
  question: HttpQuestion,
  version: Version,
  headers: readonly string[] = [],
  isRead: (head: Head) => boolean = () => false,
): Promise<HttpAnswer> {
  const { timeoutMs, signal } = question;
  const { promise, resolve, reject } = Promise.withResolvers<HttpAnswer>();
  const reader = createReader(isRead);
  const finish = (done: Whole | undefined) => {
    if (!done) return;
    socket.off('readable', onReadable);
    if (done.rest.length > 0) socket.unshift(done.rest);
    resolve(done.answer);
  };
  const onReadable = () => {
    for (let chunk = socket.read() as Buffer | null; chunk; chunk = socket.read()) {
      const done = attempt(() => reader.push(chunk));
      if (done) return finish(done);
    }
  };
  const onEnd = () => finish(attempt(() => reader.end()));
  const onAbort = () => reject(failure('the question was called off', 'ABORT_ERR', signal?.reason));
  const onTimeout = () => reject(failure(`no answer within ${timeoutMs} ms`, 'ETIMEDOUT'));
  const timer = timeoutMs === undefined ? undefined : setTimeout(onTimeout, timerMs(timeoutMs));
  socket.on('readable', onReadable).on('error', reject).on('end', onEnd).on('close', onEnd);
  signal?.addEventListener('abort', onAbort, { once: true });
  if (signal?.aborted) onAbort();
  socket.write(requestOf(question, version, headers));
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener('abort', onAbort);
    socket.off('readable', onReadable).off('error', reject).off('end', onEnd).off('close', onEnd);
  }

  function attempt(read: () => Whole | undefined): Whole | undefined {
    try {
      return read();
    } catch (error) {
      reject(error);
      return undefined;
    }
  }
}

/** An answer, and the bytes that came after it. */
interface Whole {
  answer: HttpAnswer;
  rest: Buffer;
}

type Head = Omit<HttpAnswer, 'text'>;

interface Reader {
  /** @returns the answer once it is there as a whole. @throws Error `ECONNRESET` when it is none */
  push(chunk: Buffer): Whole | undefined;
  /** No more will come. @throws Error `ECONNRESET` when the answer is cut short */
  end(): Whole;
}

/** @param isRead whether its body is left for whoever reads it while it comes */
function createReader(isRead: (head: Head) => boolean): Reader {
  const chunks: Buffer[] = [];
  let head: Head | undefined;
  let bodyAt = 0;
  let bytes = 0;
  return {
    push(chunk) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (!head) {
        const seen = Buffer.concat(chunks);
        const end = seen.indexOf('\r\n\r\n');
        if (end < 0 && bytes <= MAX_HEAD_BYTES) return undefined;
        head = parseHead(seen.toString('latin1', 0, Math.max(end, 0)));
        bodyAt = end + 4;
      }
      const length = isRead(head) ? 0 : bodyLength(head);
      return length === undefined || bytes < bodyAt + length ? undefined : whole(head, length);
    },
    end() {
      const length = head && (bodyLength(head) ?? bytes - bodyAt);
      if (!head || length === undefined || bytes < bodyAt + length) throw cutShort();
      return whole(head, length);
    },
  };

  function whole(answerHead: Head, length: number): Whole {
    const all = Buffer.concat(chunks);
    const end = bodyAt + length;
    return { answer: { ...answerHead, text: all.toString('utf8', bodyAt, end) }, rest: all.subarray(end) };
  }
}

/** @throws Error `ECONNRESET` when it is none, or says that its body comes in chunks */
function parseHead(text: string): Head {
  const [statusLine = '', ...lines] = text.split('\r\n');
  const status = Number(/^HTTP\/1\.[01] (\d{3})\b/.exec(statusLine)?.[1] ?? 0);
  const headers = new Map(
    lines.map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
  const isMeasured = /^\d*$/.test(headers.get('content-length') ?? '') && !headers.has('transfer-encoding');
  if (status === 0 || !isMeasured) throw cutShort();
  return { status, headers };
}

/** In bytes; undefined when the end of the connection is that of the body. */
function bodyLength({ status, headers }: Head): number | undefined {
  if (status === 101 || status === 204) return 0;
  const length = headers.get('content-length');
  return length === undefined ? undefined : Number(length);
}

function cutShort(): Error {
  return failure('the answer is cut short', 'ECONNRESET');
}

function failure(message: string, code: 'ABORT_ERR' | 'ECONNRESET' | 'ETIMEDOUT', cause?: unknown): Error {
  const error = Object.assign(new Error(message, { cause }), { code });
  if (code === 'ABORT_ERR') error.name = 'AbortError';
  return error;
}
