/**
 * One TCP connection of the metadata service, on the side that was called. As small as Firecracker's: segments
 * in order, a window of one request, one answer at a time.
 */
import { FLAG, type Segment } from './packets.ts';

/** Longest request with its headers; also the window the guest is given. */
const RECEIVE_BYTES = 2500;

/** Largest segment of peers that name none (RFC 9293). */
const DEFAULT_MSS = 536;

/** What fits into an Ethernet frame of 1500 bytes. */
const OWN_MSS = 1460;

/** Smallest segment a peer may ask for, as in Firecracker: smaller ones cost more than they carry. */
const MIN_MSS = 100;

/** Segments sent for one of the guest's; the rest follows as it acknowledges them. */
const MAX_SEGMENTS = 32;

const RETRANSMIT_MS = 1200;
const MAX_RETRANSMISSIONS = 15;

const END_OF_HEAD = '\r\n\r\n';

export interface ConnectionOptions {
  /** the guest's SYN, one that is acceptable */
  syn: Segment;
  /** first sequence number of the service */
  initialSequence: number;
  send: (segment: Segment) => void;
  /** answers a request, given up to the empty line that ends its headers */
  answer: (head: Buffer) => Buffer;
  /** the connection is over */
  onClosed: () => void;
}

/** Whether a call can be answered in segments that the guest takes. */
export function isAcceptable({ mss = DEFAULT_MSS }: Segment): boolean {
  return mss >= MIN_MSS;
}

export class Connection {
  readonly #options: ConnectionOptions;
  readonly #mss: number;
  #established = false;
  #closed = false;
  /** received, and not yet a whole request */
  #received: Buffer = Buffer.alloc(0);
  #expected: number;
  /** the guest will send no more */
  #remoteEnded = false;
  /** everything from `#unacknowledged` on, of which a part was sent */
  #outgoing: Buffer = Buffer.alloc(0);
  #unacknowledged: number;
  #next: number;
  /** one past all that was ever sent: what is sent again begins before it */
  #highest: number;
  /** nothing was acknowledged in time: one segment shows whether anything arrives */
  #isProbing = false;
  #finSent = false;
  #window: number;
  #timer: NodeJS.Timeout | undefined;
  #retransmissions = 0;
  /** `ms` on the monotonic clock; who is quiet for long makes room for others */
  lastHeardMs: number = performance.now();

  constructor(options: ConnectionOptions) {
    this.#options = options;
    const { syn, initialSequence } = options;
    this.#mss = Math.min(syn.mss ?? DEFAULT_MSS, OWN_MSS);
    this.#expected = (syn.seq + 1) >>> 0;
    this.#unacknowledged = initialSequence;
    this.#next = (initialSequence + 1) >>> 0;
    this.#highest = this.#next;
    this.#window = syn.window;
    this.#sendSynAck();
  }

  receive(segment: Segment): void {
    const { flags } = segment;
    this.lastHeardMs = performance.now();
    if (flags & FLAG.rst) {
      if (segment.seq === this.#expected) this.#close();
      return;
    }
    if (flags & FLAG.syn) {
      // the guest did not get the answer to its first one
      if (!this.#established && (segment.seq + 1) >>> 0 === this.#expected) this.#sendSynAck();
      else this.#acknowledge();
      return;
    }
    if (flags & FLAG.ack) this.#takeAcknowledgement(segment);
    if (this.#closed) return;
    this.#takePayload(segment);
    this.#serve();
    this.#transmit();
  }

  /** Ends it without a word to the guest. */
  drop(): void {
    this.#close();
  }

  #takeAcknowledgement({ ack, window }: Segment): void {
    const count = (ack - this.#unacknowledged) | 0;
    if (count < 0 || ((this.#highest - ack) | 0) < 0) return;
    this.#window = window;
    if (count === 0) return;
    this.#retransmissions = 0;
    this.#isProbing = false;
    this.#unacknowledged = ack;
    // the guest had what was about to be sent again
    if (((this.#next - ack) | 0) < 0) this.#next = ack;
    if (!this.#established) this.#established = true;
    else if (this.#finSent && ack === this.#next) this.#close();
    else this.#outgoing = this.#outgoing.subarray(count);
    this.#armTimer();
  }

  #takePayload({ seq, payload, flags }: Segment): void {
    const hasSomething = payload.length > 0 || flags & FLAG.fin;
    if (!hasSomething) return;
    const overlap = (this.#expected - seq) | 0;
    // out of order, or of before: the acknowledgement says where we are
    if (overlap < 0 || overlap > payload.length || this.#remoteEnded) {
      this.#acknowledge();
      return;
    }
    const fresh = payload.subarray(overlap, overlap + RECEIVE_BYTES - this.#received.length);
    this.#received = Buffer.concat([this.#received, fresh]);
    this.#expected = (this.#expected + fresh.length) >>> 0;
    const isWhole = overlap + fresh.length === payload.length;
    if (flags & FLAG.fin && isWhole) {
      this.#expected = (this.#expected + 1) >>> 0;
      this.#remoteEnded = true;
    }
    this.#serve();
    // an answer carries the acknowledgement
    if (!this.#closed && this.#outgoing.length === 0) this.#acknowledge();
  }

  /** Answers the next request unless an answer is still on its way. */
  #serve(): void {
    if (this.#closed || this.#outgoing.length > 0) return;
    const end = this.#received.indexOf(END_OF_HEAD);
    if (end === -1) {
      if (this.#received.length < RECEIVE_BYTES) return;
      // longer than any request may be
      this.#send(FLAG.rst | FLAG.ack, this.#highest);
      this.#close();
      return;
    }
    const head = this.#received.subarray(0, end + END_OF_HEAD.length);
    this.#received = this.#received.subarray(head.length);
    this.#outgoing = this.#options.answer(head);
  }

  /** Sends some of what the guest's window has room for, and the end once everything is said. */
  #transmit(): void {
    if (this.#closed || !this.#established || this.#finSent) return;
    this.#sendSegments();
    if (this.#remoteEnded && this.#outgoing.length === 0) {
      this.#send(FLAG.fin | FLAG.ack, this.#next);
      this.#advance(1);
      this.#finSent = true;
    }
    this.#armTimer();
  }

  #sendSegments(): void {
    for (let count = 0; count < MAX_SEGMENTS; count++) {
      const sent = (this.#next - this.#unacknowledged) >>> 0;
      // the one that shows whether anything arrives is on its way
      if (this.#isProbing && sent > 0) return;
      const room = this.#window - sent;
      const part = this.#outgoing.subarray(sent, sent + Math.max(0, Math.min(this.#mss, room)));
      if (part.length === 0) return;
      this.#send(FLAG.ack | FLAG.psh, this.#next, part);
      this.#advance(part.length);
    }
  }

  #advance(count: number): void {
    this.#next = (this.#next + count) >>> 0;
    if (((this.#next - this.#highest) | 0) > 0) this.#highest = this.#next;
  }

  #armTimer(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    const isWaiting = this.#next !== this.#unacknowledged || this.#outgoing.length > 0;
    if (this.#closed || !isWaiting) return;
    this.#timer = setTimeout(() => this.#retransmit(), RETRANSMIT_MS);
    this.#timer.unref();
  }

  #retransmit(): void {
    this.#retransmissions += 1;
    if (this.#retransmissions > MAX_RETRANSMISSIONS) {
      this.#close();
      return;
    }
    if (!this.#established) {
      this.#sendSynAck();
      return;
    }
    this.#next = this.#unacknowledged;
    this.#isProbing = true;
    this.#finSent = false;
    // a closed window is probed with one byte
    this.#window = Math.max(1, this.#window);
    this.#transmit();
  }

  #sendSynAck(): void {
    const { initialSequence, send } = this.#options;
    const flags = FLAG.syn | FLAG.ack;
    const payload = Buffer.alloc(0);
    send({ seq: initialSequence, ack: this.#expected, flags, window: RECEIVE_BYTES, payload, mss: OWN_MSS });
    this.#armTimer();
  }

  #acknowledge(): void {
    this.#send(FLAG.ack, this.#highest);
  }

  #send(flags: number, seq: number, payload: Buffer = Buffer.alloc(0)): void {
    const window = RECEIVE_BYTES - this.#received.length;
    this.#options.send({ seq, ack: this.#expected, flags, window, payload });
  }

  #close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#outgoing = Buffer.alloc(0);
    clearTimeout(this.#timer);
    this.#options.onClosed();
  }
}
