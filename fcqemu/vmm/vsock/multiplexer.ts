/**
 * Many streams over one port. Each direction of a stream has a window, so that a reader who is slow stops its
 * own stream and no other.
 */
import { Duplex } from 'node:stream';
import { encodeFrame, type Frame, FrameDecoder, MAX_PAYLOAD_BYTES, OP } from './frames.ts';

/** Bytes either side may send on a stream before it gets credit. */
export const WINDOW_BYTES = 256 * 1024;

/** Streams at a time, as in Firecracker. */
const MAX_STREAMS = 1023;

/** Windows of streams that are gone already, and frames without a payload, beside the windows of streams that are open. */
const SPARE_WINDOWS = 64;

/** What a frame that waits to be read costs beside its bytes, about: most of those a guest can ask for are empty. */
const FRAME_COST_BYTES = 512;

/** Smaller pieces of a stream wait while the port is full, so that what frames cost is little beside what they carry. */
const SMALL_PIECE_BYTES = 16 * FRAME_COST_BYTES;

/** Argument of an agent's hello. */
const WANTS_PORTS = 1;

/** Time an agent has to accept a stream. */
const ACCEPT_MS = 2000;

export interface MultiplexerOptions {
  guestCid: number;
  /** connects a stream the guest opens; rejects when nobody listens */
  onGuestConnect: (port: number) => Promise<Duplex>;
  /** an agent has begun, with all streams of before gone; it may want to be told the ports of the host */
  onAgent?: (wantsPorts: boolean) => void;
}

/** A connection to an agent that has yet to find out that its machine was restored. */
interface Early {
  port: number;
  resolve: (stream: Promise<Duplex>) => void;
  timer: NodeJS.Timeout;
}

interface Pending {
  resolve: (stream: Duplex) => void;
  reject: (error: Error) => void;
  timer: NodeJS.Timeout;
}

export class Multiplexer {
  readonly #port: Duplex;
  readonly #options: MultiplexerOptions;
  readonly #decoder = new FrameDecoder();
  readonly #streams = new Map<number, GuestStream>();
  readonly #pending = new Map<number, Pending>();
  readonly #early = new Set<Early>();
  /** streams of the guest that are being connected, each with the attempt that may open it */
  readonly #accepting = new Map<number, symbol>();
  /** attempts that have yet to end, also those whose stream was given up: each holds a socket */
  #attempts = 0;
  #agentReady = false;
  /** an agent that ran when the snapshot was taken is about to say hello */
  #restored = false;
  #broken = false;
  #nextStream = 2;
  /** frames that the port has yet to take */
  #queuedFrames = 0;
  readonly #onTaken = (): void => {
    this.#queuedFrames -= 1;
  };
  /** streams with small pieces that wait until the port has room */
  #waiting: (() => void)[] = [];

  constructor(port: Duplex, options: MultiplexerOptions) {
    this.#port = port;
    this.#options = options;
    port.on('data', (bytes: Buffer) => this.#receive(bytes));
    port.on('drain', () => this.#goOn());
    port.on('error', () => this.#dropAll());
    port.on('close', () => this.#dropAll());
  }

  /**
   * Opens a stream to a port in the guest.
   * @throws Error when no agent runs, nobody listens there, or the agent does not answer in time
   */
  connect(port: number): Promise<Duplex> {
    if (!this.#agentReady && this.#restored && this.#early.size < MAX_STREAMS) return this.#connectLater(port);
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    // whoever asks for streams of a guest that stands still must not fill the queue: that would end the port
    const isBehind = this.#queuedBytes > this.#mostQueuedBytes - (SPARE_WINDOWS / 2) * WINDOW_BYTES;
    if (!this.#agentReady || this.#isFull || isBehind) {
      reject(new Error('no agent, or too many connections'));
      return promise;
    }
    const id = this.#nextStream;
    this.#nextStream += 2;
    const timer = setTimeout(() => {
      this.#pending.delete(id);
      this.#send(OP.reset, id);
      reject(new Error('the agent did not answer'));
    }, ACCEPT_MS);
    this.#pending.set(id, { resolve, reject, timer });
    this.#send(OP.connect, id, port);
    return promise;
  }

  /** As a connection to a guest that stands still waits for it. */
  #connectLater(port: number): Promise<Duplex> {
    const { promise, resolve, reject } = Promise.withResolvers<Duplex>();
    const timer = setTimeout(() => {
      this.#early.delete(early);
      reject(new Error('the agent did not answer'));
      // none ran when the snapshot was taken, and nobody else waits for it
      this.#letEarlyIn();
    }, ACCEPT_MS);
    const early: Early = { port, resolve, timer };
    this.#early.add(early);
    return promise;
  }

  /** Those that waited for an agent are told, whether or not there is one. */
  #letEarlyIn(): void {
    this.#restored = false;
    for (const { port, resolve, timer } of this.#early) {
      clearTimeout(timer);
      resolve(this.connect(port));
    }
    this.#early.clear();
  }

  /** Tells an agent that ran when the snapshot was taken; who is not there reads it when it comes. */
  announceRestore(): void {
    this.#restored = true;
    this.#send(OP.restored, 0);
  }

  /** Tells the agent of a port of the host that is listened on, or no longer. */
  announcePort(port: number, isOpen: boolean): void {
    this.#send(isOpen ? OP.listen : OP.unlisten, 0, port);
  }

  get #queuedBytes(): number {
    return this.#port.writableLength + this.#queuedFrames * FRAME_COST_BYTES;
  }

  /** More lies unread only where an agent does not keep to its windows, or asks for answers that it does not read. */
  get #mostQueuedBytes(): number {
    return (this.#streams.size + SPARE_WINDOWS) * WINDOW_BYTES;
  }

  #send(op: number, stream: number, argument = 0, payload?: Buffer): void {
    if (this.#broken) return;
    this.#queuedFrames += 1;
    this.#port.write(encodeFrame(op, stream, argument, payload), this.#onTaken);
    if (this.#queuedBytes > this.#mostQueuedBytes) this.#giveUp();
  }

  #afterSmallPiece(done: () => void): void {
    if (this.#port.writableNeedDrain) this.#waiting.push(done);
    else done();
  }

  /** One piece after the other, as long as the port has room. */
  #goOn(): void {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const done of waiting) this.#afterSmallPiece(done);
  }

  #receive(bytes: Buffer): void {
    try {
      for (const frame of this.#decoder.push(bytes)) this.#handle(frame);
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#giveUp();
    }
  }

  /** An agent that breaks the protocol cannot be understood any more. Its port is closed: nothing is kept for it. */
  #giveUp(): void {
    this.#broken = true;
    this.#dropAll();
    this.#waiting = [];
    this.#port.removeAllListeners('data');
    this.#port.destroy();
  }

  #handle({ op, stream: id, argument, payload }: Frame): void {
    if (this.#broken) return;
    if (op === OP.hello) {
      this.#dropAll();
      this.#agentReady = true;
      this.#send(OP.hello, 0, this.#options.guestCid);
      this.#letEarlyIn();
      this.#options.onAgent?.(argument === WANTS_PORTS);
    } else if (op === OP.connect) {
      void this.#acceptFromGuest(id, argument);
    } else if (op === OP.accept) {
      this.#pendingDone(id)?.resolve(this.#createStream(id));
    } else if (op === OP.reset) {
      this.#accepting.delete(id);
      this.#pendingDone(id)?.reject(new Error('refused'));
      this.#streams.get(id)?.abort();
    } else {
      this.#streams.get(id)?.receive(op, argument, payload);
    }
  }

  get #isFull(): boolean {
    return this.#streams.size + this.#pending.size + this.#attempts >= MAX_STREAMS;
  }

  async #acceptFromGuest(id: number, port: number): Promise<void> {
    const isTaken = this.#streams.has(id) || this.#accepting.has(id);
    // numbers of the guest are odd: it may not take over a stream of ours
    if (id % 2 === 0 || isTaken || this.#isFull) {
      this.#send(OP.reset, id);
      return;
    }
    const attempt = Symbol();
    this.#accepting.set(id, attempt);
    const host = await this.#connectToHost(port);
    // meanwhile the guest may have begun anew, and may even have given the number to another stream
    if (this.#accepting.get(id) !== attempt) {
      host?.destroy();
      return;
    }
    this.#accepting.delete(id);
    if (!host) {
      this.#send(OP.reset, id);
      return;
    }
    const guest = this.#createStream(id);
    this.#send(OP.accept, id);
    join(guest, host);
  }

  /** Undefined when nobody listens. */
  async #connectToHost(port: number): Promise<Duplex | undefined> {
    this.#attempts += 1;
    try {
      return await this.#options.onGuestConnect(port);
    } catch {
      return undefined;
    } finally {
      this.#attempts -= 1;
    }
  }

  #createStream(id: number): GuestStream {
    const stream = new GuestStream({
      send: (op, argument, payload) => this.#send(op, id, argument, payload),
      afterSmallPiece: (done) => this.#afterSmallPiece(done),
      forget: () => this.#streams.delete(id),
    });
    this.#streams.set(id, stream);
    return stream;
  }

  #pendingDone(id: number): Pending | undefined {
    const pending = this.#pending.get(id);
    this.#pending.delete(id);
    clearTimeout(pending?.timer);
    return pending;
  }

  #dropAll(): void {
    this.#agentReady = false;
    if (this.#broken || this.#port.destroyed) this.#letEarlyIn();
    for (const id of this.#pending.keys()) this.#pendingDone(id)?.reject(new Error('the agent is gone'));
    this.#accepting.clear();
    for (const stream of this.#streams.values()) stream.abort();
  }
}

/** Connects two streams. One that breaks takes the other with it; an orderly end leaves it time to drain. */
export function join(a: Duplex, b: Duplex): void {
  // its end is past: nothing would tell of it any more
  if (a.destroyed || b.destroyed) {
    a.destroy();
    b.destroy();
    return;
  }
  a.pipe(b).pipe(a);
  for (const [one, other] of [
    [a, b],
    [b, a],
  ] as const) {
    one.on('error', () => other.destroy());
    one.on('close', () => {
      if (one.readableEnded && one.writableFinished) return;
      // what came before it broke is delivered
      if (!one.readableEnded || other.writableFinished) other.destroy();
      else other.once('finish', () => other.destroy());
    });
  }
}

/** What a stream needs of those that carry it. */
interface Carrier {
  send: (op: number, argument?: number, payload?: Buffer) => void;
  /** calls back when another small piece may be sent */
  afterSmallPiece: (done: () => void) => void;
  /** the stream is over */
  forget: () => void;
}

/** The host's end of one stream. */
class GuestStream extends Duplex {
  readonly #carrier: Carrier;
  #credit = WINDOW_BYTES;
  /** bytes received since the last credit was given */
  #unacknowledged = 0;
  #blocked: (() => void) | undefined;
  #ended = { here: false, there: false, aborted: false };

  constructor(carrier: Carrier) {
    super({ allowHalfOpen: true, readableHighWaterMark: WINDOW_BYTES, writableHighWaterMark: MAX_PAYLOAD_BYTES });
    this.#carrier = carrier;
  }

  /** Frames other than those that open and reset. */
  receive(op: number, argument: number, payload: Buffer): void {
    if (op === OP.data) {
      this.#unacknowledged += payload.length;
      // who sends more than it was allowed gets no patience
      if (this.#unacknowledged > WINDOW_BYTES || this.#ended.there) this.destroy();
      else if (payload.length > 0) {
        this.push(payload);
        this.#acknowledge();
      }
    } else if (op === OP.finish && !this.#ended.there) {
      this.#ended.there = true;
      this.push(null);
    } else if (op === OP.credit) {
      this.#credit += argument;
      // credit for what it was never sent
      if (this.#credit > WINDOW_BYTES) this.destroy();
      else this.#blocked?.();
    }
  }

  /** The other side ended it, or both directions one after the other: then what it sent is still delivered. */
  abort(): void {
    this.#ended.aborted = true;
    if (this.#ended.there && !this.readableEnded) this.once('end', () => this.destroy());
    else this.destroy();
  }

  /** What the reader took may be sent again; small amounts wait for more. */
  #acknowledge(): void {
    const taken = this.#unacknowledged - this.readableLength;
    if (taken < WINDOW_BYTES / 4 || this.destroyed) return;
    this.#unacknowledged -= taken;
    this.#carrier.send(OP.credit, taken);
  }

  override read(size?: number): Buffer | null {
    const chunk = super.read(size) as Buffer | null;
    this.#acknowledge();
    return chunk;
  }

  override _read(): void {
    // data comes when the guest sends it
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#blocked = undefined;
    if (this.#ended.aborted) {
      // nobody is there to take it
      done();
      return;
    }
    const size = Math.min(chunk.length, this.#credit, MAX_PAYLOAD_BYTES);
    if (size > 0) {
      this.#credit -= size;
      this.#carrier.send(OP.data, 0, chunk.subarray(0, size));
    }
    if (size === chunk.length) {
      if (size < SMALL_PIECE_BYTES) this.#carrier.afterSmallPiece(done);
      else done();
    } else if (size > 0) {
      this._write(chunk.subarray(size), _encoding, done);
    } else {
      this.#blocked = () => this._write(chunk, _encoding, done);
    }
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#ended.here = true;
    this.#carrier.send(OP.finish);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#carrier.forget();
    const orderly = this.#ended.here && this.#ended.there;
    if (!orderly && !this.#ended.aborted) this.#carrier.send(OP.reset);
    done(error);
  }
}
