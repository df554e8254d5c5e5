/**
 * The helper's socket: who asks is what the kernel says of them, and nobody can ask for more at a time than is done anyway.
 * A connection is answered one request at a time, in order.
 */
import { once } from 'node:events';
import { createServer, type Server, type Socket } from 'node:net';
import { asBangerError, BangerError } from '../errors.ts';
import { HELPER_REQUEST, type HelperAnswer, type HelperRequest, MAX_FRAME_BYTES } from '../network/helper-protocol.ts';
import { sleep } from '../system/abort.ts';
import type { Peer } from '../system/socket-peer.ts';
import type { Helper } from './helper.ts';
import { describeRequest, type HelperLog, isQuiet } from './log.ts';

export interface HelperServerOptions {
  helper: Pick<Helper, 'handle'>;
  /** who made a connection; undefined where it cannot be told, and then nothing is done */
  peerOf: (connection: Socket) => Peer | undefined;
  log: HelperLog;
  limits?: Partial<Limits>;
}

export interface Limits {
  /** connections of one user at a time; a daemon has one for each change */
  connectionsPerUser: number;
  connections: number;
  /** requests of one user in one go */
  burst: number;
  /** requests of one user a second after that; a start takes four */
  perSecond: number;
  /** how long a connection may say nothing, in `ms` */
  silenceMs: number;
}

const LIMITS: Limits = { connectionsPerUser: 32, connections: 256, burst: 200, perSecond: 50, silenceMs: 20_000 };

/** What is left of an allowance. */
interface Bucket {
  tokens: number;
  /** of `performance.now()` */
  at: number;
}

export function createHelperServer({ helper, peerOf, log, limits: given }: HelperServerOptions): Server {
  const limits = { ...LIMITS, ...given };
  const buckets = new Map<number, Bucket>();
  const connections = new Map<number, number>();
  let total = 0;

  /** Waits until the user may ask again. */
  async function allowance(uid: number): Promise<void> {
    const now = performance.now();
    const bucket = buckets.get(uid) ?? { tokens: limits.burst, at: now };
    buckets.set(uid, bucket);
    bucket.tokens = Math.min(limits.burst, bucket.tokens + ((now - bucket.at) / 1000) * limits.perSecond) - 1;
    bucket.at = now;
    // what is borrowed is waited for, each a little longer than the one before
    if (bucket.tokens < 0) await sleep((-bucket.tokens / limits.perSecond) * 1000);
  }

  async function answer(peer: Peer, line: string): Promise<HelperAnswer> {
    const begun = performance.now();
    let what = 'something unreadable';
    let quiet = false;
    const told = (how: string) =>
      log(`uid ${peer.uid} pid ${peer.pid}: ${what}: ${how} (${Math.round(performance.now() - begun)} ms)`);
    try {
      const request = parseRequest(line);
      what = describeRequest(request);
      quiet = isQuiet(request);
      const result = await helper.handle(peer.uid, request);
      if (!quiet) told('done');
      return { ok: true, ...(result === undefined ? {} : { result }) };
    } catch (error) {
      const { code, message, hint } = asBangerError(error);
      told(`${code}: ${message.replace(/[^ -~]/g, '?')}`);
      return { ok: false, code, message, hint };
    }
  }

  async function serve(connection: Socket, peer: Peer): Promise<void> {
    let busy = false;
    connection.setTimeout(limits.silenceMs, () => busy || connection.destroy());
    for await (const line of linesOf(connection)) {
      busy = true;
      await allowance(peer.uid);
      const text = line === undefined ? JSON.stringify(TOO_LONG) : JSON.stringify(await answer(peer, line));
      if (!connection.write(`${text}\n`)) await once(connection, 'drain');
      busy = false;
      if (line === undefined) break;
    }
    connection.end();
  }

  return createServer({ allowHalfOpen: true }, (connection) => {
    connection.on('error', () => {}); // who is gone is not answered
    const peer = peerOf(connection);
    if (!peer) {
      log('a connection of nobody knows whom is closed');
      connection.destroy();
      return;
    }
    const own = connections.get(peer.uid) ?? 0;
    if (own >= limits.connectionsPerUser || total >= limits.connections) {
      // whole, and then closed, whether or not the other side closes it
      connection.end(`${JSON.stringify(TOO_MANY)}\n`, () => connection.destroy());
      return;
    }
    connections.set(peer.uid, own + 1);
    total++;
    connection.once('close', () => {
      total--;
      const rest = (connections.get(peer.uid) ?? 1) - 1;
      if (rest > 0) connections.set(peer.uid, rest);
      else connections.delete(peer.uid);
    });
    void serve(connection, peer).catch(() => connection.destroy());
  });
}

const TOO_LONG: HelperAnswer = {
  ok: false,
  code: 'invalid_input',
  message: `A request has at most ${MAX_FRAME_BYTES} bytes.`,
};

const TOO_MANY: HelperAnswer = {
  ok: false,
  code: 'conflict',
  message: 'This user, or all users together, have too many connections to the network helper.',
};

/** @throws BangerError `invalid_input` for what is no request */
export function parseRequest(line: string): HelperRequest {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new BangerError('invalid_input', 'The request is not JSON.');
  }
  const parsed = HELPER_REQUEST.safeParse(value);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new BangerError('invalid_input', `The request is wrong at "${issue?.path.join('.')}": ${issue?.code}.`);
}

/** Lines as they come; undefined, and nothing after it, for one that is too long. */
async function* linesOf(connection: Socket): AsyncGenerator<string | undefined> {
  let pending: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of connection as AsyncIterable<Buffer>) {
    let from = 0;
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, from)) {
      if (bytes + end - from > MAX_FRAME_BYTES) return yield undefined;
      yield Buffer.concat([...pending, chunk.subarray(from, end)]).toString('utf8');
      pending = [];
      bytes = 0;
      from = end + 1;
    }
    if (from < chunk.length) pending.push(chunk.subarray(from));
    bytes += chunk.length - from;
    if (bytes > MAX_FRAME_BYTES) return yield undefined;
  }
}
