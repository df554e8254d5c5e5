/**
 * The resolver guests see on the gateway address: it answers the zone itself and asks the host's resolvers for
 * the rest. Only banger's own VMs are served; everyone else's packets are dropped unanswered.
 */
import type { RemoteInfo } from 'node:dgram';
import {
  answer,
  answerServfail,
  createReply,
  offerRecursion,
  type QueryResult,
  type Reply,
  wantsRecursion,
} from './answer.ts';
import { Forwarder, type ForwarderOptions } from './forwarder.ts';
import { Listener, type ListenerOptions, type ListenerStatus } from './listener.ts';
import { answerStream, emptyCounts, type QueryCounts } from './server.ts';
import type { TcpQuery } from './tcp.ts';
import type { Zone } from './zone.ts';

export interface GuestListenerOptions
  extends Omit<ListenerOptions, 'onDatagram' | 'onQuery' | 'acceptsPeer'>,
    ForwarderOptions {
  zone: Zone;
  /** whether a source address belongs to one of banger's VMs */
  isVm(address: string): boolean;
  /** whether a VM may ask for names outside the zone: queries are a way out, also for one that has no other */
  mayAskOutside?(address: string): boolean;
}

export interface GuestListenerStatus extends ListenerStatus {
  /** queries answered here, by how they ended; `outside` are those passed on */
  queries: QueryCounts;
  /** what became of queries passed on */
  forwarded: ForwardCounts;
  /** queries passed on that wait for an answer */
  inFlight: number;
}

export interface ForwardCounts {
  answered: number;
  /** no resolver of the host answered */
  failed: number;
  /** dropped because too many were under way; guests ask again */
  busy: number;
}

export class GuestListener implements AsyncDisposable {
  readonly #options: GuestListenerOptions;
  readonly #listener: Listener;
  readonly #counts = emptyCounts();
  readonly #forwarded: ForwardCounts = { answered: 0, failed: 0, busy: 0 };
  #forwarder: Forwarder;
  #reply: Reply = createReply();

  constructor(options: GuestListenerOptions) {
    this.#options = options;
    this.#forwarder = new Forwarder(options);
    this.#listener = new Listener({
      ...options,
      acceptsPeer: (address) => options.isVm(address),
      onDatagram: (message, from) => this.#onDatagram(message, from),
      onQuery: (query) => this.#onStream(query),
    });
  }

  /** Opens the port; while the address does not exist (no VM has a tap yet) this is retried. Never rejects. */
  async start(): Promise<void> {
    await this.#listener.start();
  }

  /** Tries at once when not listening, e.g. because the first tap is up. */
  async retryNow(): Promise<void> {
    await this.#listener.retryNow();
  }

  /** Ends queries under way and closes the port; `start` opens it again. */
  async stop(): Promise<void> {
    this.#forwarder[Symbol.dispose]();
    this.#forwarder = new Forwarder(this.#options);
    await this.#listener.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  get status(): GuestListenerStatus {
    return {
      ...this.#listener.status,
      queries: { ...this.#counts },
      forwarded: { ...this.#forwarded },
      inFlight: this.#forwarder.inFlight,
    };
  }

  #onDatagram(message: Buffer, from: RemoteInfo): void {
    const result = this.#count(answer(this.#options.zone, message, 'udp', this.#reply));
    if (result === 'outside' && wantsRecursion(message) && this.#mayAskOutside(from.address)) {
      // a client that cannot be answered any more is its own affair
      this.#passOn(message, 'udp', from.address, (response) => this.#listener.send(response, from)).catch(() => {});
    } else if (this.#reply.length > 0) {
      offerRecursion(this.#reply);
      const taken = this.#listener.send(this.#reply.bytes.subarray(0, this.#reply.length), from);
      if (!taken) this.#reply = createReply();
    }
  }

  #onStream(query: TcpQuery): void {
    const reply = this.#reply;
    const result = this.#count(answerStream(this.#options.zone, query, reply));
    if (result === 'outside' && wantsRecursion(query.message) && this.#mayAskOutside(query.peer)) {
      const message = Buffer.from(query.message);
      const passed = this.#passOn(message, 'tcp', query.peer, query.respond);
      passed.catch(() => {}).finally(() => query.respond(undefined));
    } else {
      offerRecursion(reply);
      query.respond(reply.length === 0 ? undefined : reply.bytes.subarray(0, reply.length));
    }
  }

  async #passOn(
    query: Buffer,
    transport: 'udp' | 'tcp',
    client: string,
    send: (response: Uint8Array) => void,
  ): Promise<void> {
    const result = await this.#forwarder.forward(query, transport, client);
    if (result.outcome === 'forwarded') {
      this.#forwarded.answered++;
      send(result.response);
    } else if (result.outcome === 'failed') {
      this.#forwarded.failed++;
      const reply = createReply();
      answerServfail(query, reply);
      offerRecursion(reply);
      send(reply.bytes.subarray(0, reply.length));
    } else {
      this.#forwarded.busy++;
    }
  }

  /** Others get the zone's own answer, REFUSED. */
  #mayAskOutside(address: string): boolean {
    return this.#options.mayAskOutside?.(address) ?? true;
  }

  #count(result: QueryResult): QueryResult {
    this.#counts[result]++;
    return result;
  }
}
