/**
 * One connection to the agent of a guest, through the Unix socket of its VMM: requests and their answers, each on a channel of
 * its own. The guest is held to the protocol: whatever else it sends ends the connection.
 */
import { createConnection, type Socket } from 'node:net';
import { messageOf, systemCode } from '../../errors.ts';
import { AgentError } from './errors.ts';
import { type AgentFrame, createAgentDecoder, encodeAgentFrame, TYPE } from './frames.ts';

/** Port of vsock where the agent listens; in agent/agent.h too. */
const AGENT_PORT = 1011;

/** `OK 4294967295\n` and some slack. */
const MAX_ANSWER_BYTES = 32;

/** What a guest may send on channels that are closed here: what was under way when they were. */
const SPARE_BYTES = 1024 * 1024;

/** Input for commands waits while the guest has this much still to take, whatever it says that its commands took. */
const MAX_UNSENT_BYTES = 1024 * 1024;

/** Hears what comes on its channel, and that nothing more will. */
export interface ChannelOwner {
  /** Says whether the channel ends with this frame. @throws RangeError when the frame has no place here */
  receive(frame: AgentFrame): 'more' | 'over';
  lost(error: AgentError): void;
}

export interface LinkOptions {
  signal?: AbortSignal | undefined;
  /** limit in `ms` for the connection and the agent's first word */
  timeoutMs: number;
}

export class AgentLink {
  readonly #socket: Socket;
  readonly #decode = createAgentDecoder();
  readonly #owners = new Map<number, ChannelOwner>();
  readonly #closeListeners: (() => void)[] = [];
  #roomListeners: (() => void)[] = [];
  #nextChannel = 1;
  #spareBytes = SPARE_BYTES;
  #lost: AgentError | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('error', (error) => this.#lose(new AgentError('gone', messageOf(error), error)));
    socket.on('drain', () => this.#tellRoom());
    for (const event of ['end', 'close']) {
      socket.once(event, () => this.#lose(new AgentError('gone', 'the connection to its agent ended')));
    }
  }

  get closed(): boolean {
    return this.#lost !== undefined;
  }

  onClose(listener: () => void): void {
    if (this.closed) listener();
    else this.#closeListeners.push(listener);
  }

  /** From now on what comes is read; `early` came before. */
  begin(early: Buffer): void {
    this.#socket.on('data', (chunk: Buffer) => this.#read(chunk));
    if (early.length > 0) this.#read(early);
    this.#socket.resume();
  }

  /** The greeting comes on channel 0, which is nobody's otherwise. */
  expectGreeting(owner: ChannelOwner): void {
    this.#owners.set(0, owner);
  }

  /** Opens a channel by a request. @throws AgentError `gone` */
  open(type: number, payload: Buffer, owner: ChannelOwner): number {
    if (this.#lost) throw this.#lost;
    const channel = this.#nextChannel;
    this.#nextChannel = channel === 0xffff_ffff ? 1 : channel + 1;
    this.#owners.set(channel, owner);
    this.send(type, channel, payload);
    return channel;
  }

  send(type: number, channel: number, payload?: Buffer): void {
    if (!this.closed) this.#socket.write(encodeAgentFrame(type, channel, payload));
  }

  /** Whether the guest is far behind in taking what was sent. */
  get full(): boolean {
    return !this.closed && this.#socket.writableLength > MAX_UNSENT_BYTES;
  }

  /** Calls back once, when the guest has taken what was sent, or nothing more will be. */
  onRoom(listener: () => void): void {
    this.#roomListeners.push(listener);
  }

  /** What still comes on this channel is dropped. */
  forget(channel: number): void {
    if (this.#owners.delete(channel)) this.#spareBytes = SPARE_BYTES;
  }

  /** Ends it because the guest broke the protocol, or because nobody needs it any more. */
  close(error = new AgentError('gone', 'the connection to its agent was closed')): void {
    this.#lose(error);
  }

  #read(chunk: Buffer): void {
    try {
      for (const frame of this.#decode(chunk)) {
        if (this.#lost) return;
        this.#deliver(frame);
      }
    } catch (error) {
      if (!(error instanceof RangeError)) throw error;
      this.#lose(new AgentError('broken', `its agent broke the protocol: ${error.message}`, error));
    }
  }

  #deliver(frame: AgentFrame): void {
    const owner = this.#owners.get(frame.channel);
    if (owner) {
      if (owner.receive(frame) === 'over') this.forget(frame.channel);
      return;
    }
    if (frame.type < TYPE.done && frame.type !== TYPE.credit) throw new RangeError(`a frame of type ${frame.type}`);
    this.#spareBytes -= 16 + frame.payload.length;
    if (this.#spareBytes < 0) throw new RangeError('much that nobody asked for');
  }

  #tellRoom(): void {
    const listeners = this.#roomListeners;
    this.#roomListeners = [];
    for (const listener of listeners) listener();
  }

  #lose(error: AgentError): void {
    if (this.#lost) return;
    this.#lost = error;
    this.#socket.destroy();
    const owners = [...this.#owners.values()];
    this.#owners.clear();
    for (const owner of owners) owner.lost(error);
    this.#tellRoom();
    for (const listener of this.#closeListeners) listener();
  }
}

/**
 * Connects to the guest's port through its VMM's socket.
 * @returns the connection, and what came behind the VMM's answer
 * @throws AgentError `absent`, `silent`
 */
export async function dialAgent(socketPath: string, options: LinkOptions): Promise<{ socket: Socket; early: Buffer }> {
  const { promise, resolve, reject } = Promise.withResolvers<{ socket: Socket; early: Buffer }>();
  const socket = createConnection({ path: socketPath });
  const fail = (error: AgentError) => {
    socket.destroy();
    reject(error);
  };
  const onAbort = () => fail(new AgentError('gone', 'cancelled', options.signal?.reason));
  const timer = setTimeout(
    () => fail(new AgentError('silent', `its agent did not answer within ${options.timeoutMs / 1000} s`)),
    options.timeoutMs,
  );
  options.signal?.addEventListener('abort', onAbort, { once: true });
  let answer: Buffer = Buffer.alloc(0);
  const onData = (chunk: Buffer) => {
    answer = Buffer.concat([answer, chunk]);
    const end = answer.indexOf(0x0a);
    if (end < 0 && answer.length < MAX_ANSWER_BYTES) return;
    socket.off('data', onData);
    socket.pause();
    if (/^OK \d+$/.test(answer.toString('latin1', 0, Math.max(0, end)))) {
      resolve({ socket, early: answer.subarray(end + 1) });
    } else fail(new AgentError('broken', 'its VMM does not connect to the agent as Firecracker does'));
  };
  socket.once('connect', () => socket.write(`CONNECT ${AGENT_PORT}\n`));
  socket.on('data', onData);
  socket.on('error', (error) => fail(new AgentError('absent', dialFailure(error), error)));
  socket.once('close', () => fail(new AgentError('absent', 'no agent answers in it')));
  if (options.signal?.aborted) onAbort();
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    options.signal?.removeEventListener('abort', onAbort);
  }
}

function dialFailure(error: Error): string {
  return ['ENOENT', 'ECONNREFUSED'].includes(systemCode(error) ?? '')
    ? 'its VMM has no socket for an agent'
    : messageOf(error);
}
