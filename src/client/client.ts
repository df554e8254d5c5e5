/** The typed client of bangerd: every route of the contract, over its Unix socket. */
import type { Duplex, Readable } from 'node:stream';
import {
  ADDRESSES,
  type Answer,
  type CallArgs,
  DEFAULT_WAIT_MS,
  type JsonRoute,
  type StreamRoute,
} from '../api/addresses.ts';
import { fromProblem, parseProblem } from '../api/problem.ts';
import type { ExecRequest } from '../api/vm.ts';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { requireOwnPlace } from '../system/own-place.ts';
import { ask, askStream, askUpgrade, type HttpQuestion } from '../system/short-http.ts';

/** Header in which the daemon names its version in every answer. */
const VERSION_HEADER = 'x-banger-version';

/**
 * What the daemon gets to answer: it begins long actions and answers at once, so only a host that is nearly at a standstill
 * takes longer, or a daemon that will never answer.
 */
const ANSWER_LIMIT_MS = 120_000;

export interface ClientOptions {
  socketPath: string;
  /** called once when nothing answers on the socket; the request is tried again when it resolves */
  startDaemon?: () => Promise<void>;
  /** whether a daemon runs, where that must not be found out by a connection because one would start it */
  isRunning?: () => Promise<boolean>;
  /** called with the daemon's version, once for every answer */
  onVersion?: (version: string) => void;
  /** what it gets to answer, and to begin a streamed answer, in `ms`; default 120_000 */
  answerLimitMs?: number;
}

export interface Client {
  /**
   * Asks for one JSON answer.
   * @throws BangerError with the daemon's own code, or `daemon_unreachable`
   */
  call<K extends JsonRoute>(route: K, args: CallArgs<K>): Promise<Answer<K>>;
  /** Asks for a streamed answer; returns when its head is there. Throws as `call` does. */
  stream<K extends Exclude<StreamRoute, 'exec'>>(route: K, args: CallArgs<K>): Promise<Readable>;
  /** Begins a command in a VM; the connection speaks the frames of `api/exec-frames.ts`. Throws as `call` does. */
  exec(name: string, request: ExecRequest, signal?: AbortSignal): Promise<Duplex>;
}

/** The arguments of any route, once the types have had their say. */
interface LooseArgs {
  params?: Record<string, string>;
  query?: Record<string, unknown>;
  body?: unknown;
  signal?: AbortSignal | undefined;
}

export function createClient(options: ClientOptions): Client {
  return {
    async call<K extends JsonRoute>(route: K, args: CallArgs<K>): Promise<Answer<K>> {
      const { status, headers, text } = await reach(() => ask(options.socketPath, questionOf(route, args)));
      noteVersion(headers.get(VERSION_HEADER));
      if (status < 200 || status > 299) throw problemError(status, text);
      // the daemon's serializer wrote it by the same contract that types it here
      return (text === '' ? undefined : JSON.parse(text)) as Answer<K>;
    },

    async stream(route, args) {
      if (route === 'operationEvents') {
        // its last event says that it is the last, so that much less has to be loaded
        const { stream, ...answer } = await reach(() => askStream(options.socketPath, questionOf(route, args)));
        noteVersion(answer.headers.get(VERSION_HEADER));
        if (!stream) throw problemError(answer.status, answer.text);
        return stream;
      }
      // most commands do without it, and it takes a while to load
      const { openStream } = await import('./open-stream.ts');
      const response = await reach(() => openStream({ socketPath: options.socketPath, ...questionOf(route, args) }));
      noteVersion(response.headers[VERSION_HEADER]);
      const status = response.statusCode ?? 0;
      if (status < 200 || status > 299) throw problemError(status, await readAll(response));
      return response;
    },

    async exec(name, request, signal) {
      const question = questionOf('exec', { params: { name }, signal });
      const { stream, ...answer } = await reach(() => askUpgrade(options.socketPath, question, 'banger-exec'));
      noteVersion(answer.headers.get(VERSION_HEADER));
      if (!stream) throw problemError(answer.status, answer.text);
      stream.write(`${JSON.stringify(request)}\n`);
      return stream;
    },
  };

  function questionOf(route: JsonRoute | StreamRoute, args: LooseArgs): HttpQuestion {
    const [method, url] = ADDRESSES[route];
    // a question that asks to be made to wait is given that time too
    const waits = Number(args.query?.timeoutMs ?? (route === 'waitVm' ? DEFAULT_WAIT_MS : 0));
    const timeoutMs = waits + (options.answerLimitMs ?? ANSWER_LIMIT_MS);
    return { method, path: fillUrl(url, args), body: args.body, signal: args.signal, timeoutMs };
  }

  async function reach<T>(dial: () => Promise<T>): Promise<T> {
    requireOwnPlace(options.socketPath); // who answers there is told everything
    if (options.isRunning && !(await options.isRunning())) throw noDaemon(options.socketPath);
    try {
      return await dial();
    } catch (error) {
      if (!options.startDaemon || !nobodyListens(error)) throw connectionError(error, options.socketPath);
    }
    await options.startDaemon();
    try {
      return await dial();
    } catch (error) {
      throw connectionError(error, options.socketPath);
    }
  }

  function noteVersion(version: string | string[] | undefined): void {
    if (typeof version === 'string') options.onVersion?.(version);
  }
}

/** Whether the error says that no daemon holds the socket, so that nothing was done and one may be started. */
function nobodyListens(error: unknown): boolean {
  const code = systemCode(error);
  return code === 'ENOENT' || code === 'ECONNREFUSED';
}

function connectionError(error: unknown, socketPath: string): BangerError {
  if (error instanceof BangerError) return error;
  if (error instanceof Error && error.name === 'AbortError') {
    return new BangerError('cancelled', 'The request was cancelled.', { cause: error });
  }
  if (nobodyListens(error)) return noDaemon(socketPath, error);
  const code = systemCode(error);
  if (code === 'ETIMEDOUT') {
    return new BangerError('timeout', `The daemon on ${socketPath} accepts connections and does not answer.`, {
      cause: error,
      hint: 'See what it says in bangerd.log in the state directory; end it with: banger daemon stop',
    });
  }
  if (code === 'EACCES' || code === 'EPERM') {
    return new BangerError('daemon_unreachable', `This user may not use the daemon's socket ${socketPath}.`, {
      cause: error,
      hint: 'Run the command as the user who started the daemon.',
    });
  }
  if (code === 'EINVAL') {
    return new BangerError(
      'daemon_unreachable',
      `The socket path ${socketPath} is longer than the 107 bytes Linux allows.`,
      {
        cause: error,
        hint: 'Choose a shorter directory with BANGER_HOME or BANGER_PATHS_RUN.',
      },
    );
  }
  if (code === 'ECONNRESET' || code === 'EPIPE') {
    return new BangerError('daemon_unreachable', 'The daemon ended before it answered.', {
      cause: error,
      hint: 'banger daemon status',
    });
  }
  return new BangerError('daemon_unreachable', `The daemon on ${socketPath} cannot be asked: ${messageOf(error)}`, {
    cause: error,
    hint: 'banger daemon status',
  });
}

function noDaemon(socketPath: string, cause?: unknown): BangerError {
  return new BangerError('daemon_unreachable', `No daemon answers on ${socketPath}.`, {
    ...(cause === undefined ? {} : { cause }),
    hint: 'banger daemon start',
  });
}

function fillUrl(url: string, { params, query }: LooseArgs): string {
  const path = url.replace(/:(\w+)/g, (_, key: string) => encodeURIComponent(params?.[key] ?? ''));
  const given = Object.entries(query ?? {}).filter(([, value]) => value !== undefined);
  if (given.length === 0) return path;
  return `${path}?${new URLSearchParams(given.map(([key, value]) => [key, String(value)]))}`;
}

/** @throws BangerError `daemon_unreachable` when the daemon ends in the middle of its answer */
async function readAll(response: Readable): Promise<string> {
  const chunks: Buffer[] = [];
  try {
    for await (const chunk of response as AsyncIterable<Buffer>) chunks.push(chunk);
  } catch (error) {
    throw connectionError(error, '');
  }
  return Buffer.concat(chunks).toString('utf8');
}

function problemError(status: number, text: string): BangerError {
  const problem = parseProblem(text);
  if (!problem) {
    return new BangerError('internal', `The daemon answered with HTTP status ${status} and no explanation.`, {
      hint: 'banger daemon status',
    });
  }
  return fromProblem(problem);
}
