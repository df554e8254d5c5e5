/** A command that runs in a guest through its agent: input and output as streams, each with its own credit. */
import { constants } from 'node:os';
import { Duplex, Readable } from 'node:stream';
import { AgentError } from './errors.ts';
import { type AgentFrame, DATA_BYTES, decodeFields, TAG, TYPE, uint32, WINDOW_BYTES } from './frames.ts';
import type { AgentLink, ChannelOwner } from './link.ts';

/** How a command ended. */
export interface AgentExit {
  /** null when a signal ended it or the connection was lost */
  code: number | null;
  /** e.g. `SIGKILL` */
  signal: string | null;
  /** whether no shell was begun for it */
  plain?: true;
}

const SIGNAL_NAMES = new Map(Object.entries(constants.signals).map(([name, number]) => [number, name]));

/** Standard input and output; `stderr` beside it. Destroyed before its end, the command is hung up. */
export class AgentChannel extends Duplex implements ChannelOwner {
  readonly stderr: Readable;
  /** its process in the guest, as soon as there is one; it may be said later that it did not become the program */
  readonly begun: Promise<number>;
  /** how the command ended, as soon as it did; what it left in the background may still say something */
  readonly exited: Promise<AgentExit>;
  /** how the command ended, once nothing more comes; rejects when the agent could not run it or the connection broke */
  readonly ended: Promise<AgentExit>;
  readonly #begun = Promise.withResolvers<number>();
  readonly #exited = Promise.withResolvers<AgentExit>();
  readonly #ended = Promise.withResolvers<AgentExit>();
  readonly #link: AgentLink;
  #channel = 0;
  #exit: AgentExit = { code: null, signal: null };
  /** bytes of input the guest takes */
  #credit = WINDOW_BYTES;
  /** bytes of output the guest was not given credit for again */
  #unacknowledged = 0;
  #blocked: (() => void) | undefined;
  #waitsForRoom = false;
  readonly #onRoom = () => {
    this.#waitsForRoom = false;
    this.#blocked?.();
  };
  #over = false;
  readonly #said = new Set<'begun' | 'ended'>();

  constructor(link: AgentLink) {
    super({ allowHalfOpen: true, emitClose: true, readableHighWaterMark: WINDOW_BYTES });
    this.#link = link;
    this.begun = this.#begun.promise;
    this.exited = this.#exited.promise;
    this.ended = this.#ended.promise;
    for (const promise of [this.begun, this.exited, this.ended]) promise.catch(() => {});
    const acknowledge = () => this.#acknowledge();
    this.stderr = new (class extends Readable {
      // what a reader takes after a pause is asked for by no _read: nothing was pushed since the one before
      override read(size?: number): Buffer | null {
        const chunk = super.read(size) as Buffer | null;
        acknowledge();
        return chunk;
      }
      override _read(): void {
        acknowledge();
      }
    })({ highWaterMark: WINDOW_BYTES });
    this.on('error', () => {}); // `ended` says it
  }

  /** @throws AgentError `gone` */
  begin(payload: Buffer): void {
    this.#channel = this.#link.open(TYPE.exec, payload, this);
  }

  /** Signals its whole session, e.g. by `TERM`; a name the kernel does not know is no signal. */
  signal(name: string): void {
    const number = (constants.signals as Record<string, number>)[`SIG${name}`];
    if (number !== undefined && !this.#over) this.#link.send(TYPE.signal, this.#channel, uint32(number));
  }

  resize(rows: number, columns: number): void {
    if (!this.#over) this.#link.send(TYPE.resize, this.#channel, uint32(rows, columns));
  }

  receive({ type, payload }: AgentFrame): 'more' | 'over' {
    switch (type) {
      case TYPE.done:
        this.#once('begun');
        this.#begun.resolve(decodeFields(payload).number(TAG.pid) ?? 0);
        return 'more';
      case TYPE.stdout:
      case TYPE.stderr:
        return this.#output(type, payload);
      case TYPE.credit:
        if (payload.length !== 4 || payload.readUInt32LE(0) === 0) throw new RangeError('credit that is none');
        this.#credit += payload.readUInt32LE(0);
        if (this.#credit > WINDOW_BYTES) throw new RangeError('credit for what it was never sent');
        this.#blocked?.();
        return 'more';
      case TYPE.exit:
        this.#once('ended');
        this.#exit = exitOf(payload);
        this.#exited.resolve(this.#exit);
        return 'more';
      case TYPE.end:
        this.#finish();
        return 'over';
      case TYPE.failed:
        this.#fail(new AgentError('refused', decodeFields(payload).text(TAG.text, 1024) ?? 'it was not run'));
        return 'over';
      default:
        throw new RangeError(`a frame of type ${type} to a command`);
    }
  }

  lost(error: AgentError): void {
    this.#fail(error);
  }

  /** What can be said without end must cost credit: this can be said once. */
  #once(what: 'begun' | 'ended'): void {
    if (this.#said.has(what)) throw new RangeError(`a command that has ${what} twice`);
    this.#said.add(what);
  }

  #output(type: number, payload: Buffer): 'more' {
    if (payload.length === 0) throw new RangeError('output without any');
    this.#unacknowledged += payload.length;
    if (this.#unacknowledged > WINDOW_BYTES) throw new RangeError('more output than it was granted');
    (type === TYPE.stdout ? this : this.stderr).push(payload);
    this.#acknowledge();
    return 'more';
  }

  /** What the readers took may be sent again; small amounts wait for more. */
  #acknowledge(): void {
    const taken = this.#unacknowledged - this.readableLength - this.stderr.readableLength;
    if (taken < WINDOW_BYTES / 4 || this.#over) return;
    this.#unacknowledged -= taken;
    this.#link.send(TYPE.credit, this.#channel, uint32(taken));
  }

  #finish(): void {
    this.#over = true;
    this.push(null);
    this.stderr.push(null);
    this.#exited.resolve(this.#exit);
    this.#ended.resolve(this.#exit);
    this.#blocked?.();
  }

  #fail(error: AgentError): void {
    this.#over = true;
    for (const { reject } of [this.#begun, this.#exited, this.#ended]) reject(error);
    this.stderr.push(null);
    this.destroy(error);
  }

  override read(size?: number): Buffer | null {
    const chunk = super.read(size) as Buffer | null;
    this.#acknowledge();
    return chunk;
  }

  override _read(): void {
    this.#acknowledge();
  }

  override _write(chunk: Buffer, encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    this.#blocked = undefined;
    if (this.#over) {
      done(); // nobody is there to take it
      return;
    }
    if (this.#link.full) {
      this.#blocked = () => this._write(chunk, encoding, done);
      if (!this.#waitsForRoom) this.#link.onRoom(this.#onRoom);
      this.#waitsForRoom = true;
      return;
    }
    const size = Math.min(chunk.length, this.#credit, DATA_BYTES);
    if (size > 0) {
      this.#credit -= size;
      this.#link.send(TYPE.stdin, this.#channel, chunk.subarray(0, size));
    }
    if (size === chunk.length) done();
    else if (size > 0) this._write(chunk.subarray(size), encoding, done);
    else this.#blocked = () => this._write(chunk, encoding, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#over) this.#link.send(TYPE.stdinEnd, this.#channel);
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    if (!this.#over) {
      this.#over = true;
      this.#link.send(TYPE.close, this.#channel);
      this.#link.forget(this.#channel);
      const gone = new AgentError('gone', 'the command was given up');
      for (const { reject } of [this.#begun, this.#exited, this.#ended]) reject(gone);
      this.stderr.push(null);
    }
    this.#blocked?.();
    done(error);
  }
}

function exitOf(payload: Buffer): AgentExit {
  const fields = decodeFields(payload);
  const signal = fields.number(TAG.signal);
  const plain = fields.number(TAG.plain) === 1 ? { plain: true as const } : {};
  if (signal !== undefined) return { code: null, signal: SIGNAL_NAMES.get(signal) ?? `SIG${signal}`, ...plain };
  const code = fields.number(TAG.code);
  if (code === undefined || code > 255) throw new RangeError('an exit status that is none');
  return { code, signal: null, ...plain };
}
