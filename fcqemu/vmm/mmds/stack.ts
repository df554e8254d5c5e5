/**
 * The metadata service on one network interface: what the guest sends to the service's address is answered
 * here, and never reaches the tap.
 */
import { randomBytes } from '../../random.ts';
import { Connection, isAcceptable } from './connection.ts';
import { arpReply, FLAG, isFor, type Peer, parseFrame, type Segment, tcpFrame } from './packets.ts';

const PORT = 80;
const MAX_CONNECTIONS = 30;

/** A connection that was quiet for so long gives way when there is no room for another. */
const EVICTION_MS = 40_000;

/** Counters of the metrics file's group `mmds`. */
export type MmdsCounter =
  | 'rx_accepted'
  | 'rx_accepted_err'
  | 'rx_accepted_unusual'
  | 'rx_bad_eth'
  | 'rx_count'
  | 'rx_invalid_token'
  | 'rx_no_token'
  | 'tx_bytes'
  | 'tx_count'
  | 'tx_frames'
  | 'connections_created'
  | 'connections_destroyed';

export interface StackOptions {
  /** IPv4 address of the service */
  address: string;
  /** answers an HTTP request */
  answer: (head: Buffer) => Buffer;
  /** sends an Ethernet frame to the guest */
  send: (frame: Buffer) => void;
  count: (counter: MmdsCounter, amount?: number) => void;
}

export class MmdsStack {
  readonly #options: StackOptions;
  readonly #address: Buffer;
  /** by address and port of the guest */
  readonly #connections = new Map<string, Connection>();

  constructor(options: StackOptions) {
    this.#options = options;
    this.#address = Buffer.from(options.address.split('.').map(Number));
  }

  /**
   * Takes a frame of the guest if it is meant for the service.
   * @returns false for every other frame
   */
  receive(frame: Buffer): boolean {
    if (!isFor(frame, this.#address)) return false;
    const { count } = this.#options;
    const received = parseFrame(frame);
    if (received.kind === 'broken') return false;
    count('rx_accepted');
    if (received.kind === 'unusual') {
      count('rx_accepted_unusual');
    } else if (received.kind === 'arp') {
      this.#send(arpReply(this.#address, received));
    } else {
      count('rx_count');
      this.#receiveSegment(received.peer, received.segment);
    }
    return true;
  }

  /** Forgets all connections. */
  close(): void {
    for (const connection of [...this.#connections.values()]) connection.drop();
  }

  #receiveSegment(peer: Peer, segment: Segment): void {
    const key = `${peer.address.toString('hex')}:${peer.port}`;
    const known = this.#connections.get(key);
    if (known) {
      known.receive(segment);
      return;
    }
    const isCall = (segment.flags & (FLAG.syn | FLAG.ack | FLAG.rst)) === FLAG.syn;
    const isForService = peer.localPort === PORT && isCall;
    // Firecracker does not answer these either
    if (isForService && !isAcceptable(segment)) return;
    if (isForService && this.#makeRoom()) this.#accept(key, peer, segment);
    else if (!(segment.flags & FLAG.rst)) this.#reset(peer, segment);
  }

  #accept(key: string, peer: Peer, syn: Segment): void {
    const { answer, count } = this.#options;
    const connection = new Connection({
      syn,
      initialSequence: randomBytes(4).readUInt32LE(),
      send: (segment) => this.#send(tcpFrame(this.#address, peer, segment)),
      answer,
      onClosed: () => {
        this.#connections.delete(key);
        count('connections_destroyed');
      },
    });
    this.#connections.set(key, connection);
    count('connections_created');
  }

  #makeRoom(): boolean {
    if (this.#connections.size < MAX_CONNECTIONS) return true;
    const quietSinceMs = performance.now() - EVICTION_MS;
    const quiet = [...this.#connections.values()].find(({ lastHeardMs }) => lastHeardMs < quietSinceMs);
    quiet?.drop();
    return quiet !== undefined;
  }

  /** "There is no such connection" (RFC 9293, 3.10.7.1). */
  #reset(peer: Peer, { seq, ack, flags, payload }: Segment): void {
    const length = payload.length + (flags & FLAG.syn ? 1 : 0) + (flags & FLAG.fin ? 1 : 0);
    const reply =
      flags & FLAG.ack
        ? { seq: ack, ack: 0, flags: FLAG.rst }
        : { seq: 0, ack: (seq + length) >>> 0, flags: FLAG.rst | FLAG.ack };
    this.#send(tcpFrame(this.#address, peer, { ...reply, window: 0, payload: Buffer.alloc(0) }));
  }

  #send(frame: Buffer): void {
    const { send, count } = this.#options;
    count('tx_count');
    count('tx_frames');
    count('tx_bytes', frame.length);
    send(frame);
  }
}
