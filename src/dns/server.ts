/** The authoritative server: answers a zone's queries on one port and counts how they end. */
import type { RemoteInfo } from 'node:dgram';
import { answer, createReply, QUERY_RESULTS, type QueryResult, type Reply, refuseOverlong } from './answer.ts';
import { Listener, type ListenerOptions, type ListenerStatus } from './listener.ts';
import type { TcpQuery } from './tcp.ts';
import type { Zone } from './zone.ts';

export type QueryCounts = Record<QueryResult, number>;

export interface DnsServerOptions extends Omit<ListenerOptions, 'onDatagram' | 'onQuery'> {
  zone: Zone;
}

export interface DnsServerStatus extends ListenerStatus {
  zone: string;
  reverseZones: readonly string[];
  serial: number;
  /** VMs with records */
  vms: number;
  records: number;
  /** queries since the server was made, by how they ended */
  queries: QueryCounts;
}

export class DnsServer implements AsyncDisposable {
  readonly #zone: Zone;
  readonly #listener: Listener;
  readonly #counts = emptyCounts();
  #reply: Reply = createReply();

  constructor({ zone, ...options }: DnsServerOptions) {
    this.#zone = zone;
    this.#listener = new Listener({
      ...options,
      onDatagram: (message, from) => this.#answerDatagram(message, from),
      onQuery: (query) => this.#answerStream(query),
    });
  }

  /** Opens the port. A port in use is a status and retried, never an error. */
  async start(): Promise<void> {
    await this.#listener.start();
  }

  async stop(): Promise<void> {
    await this.#listener.stop();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  get status(): DnsServerStatus {
    return {
      ...this.#listener.status,
      zone: this.#zone.name,
      reverseZones: this.#zone.reverseNames,
      serial: this.#zone.serial,
      vms: this.#zone.size,
      records: this.#zone.recordCount,
      queries: { ...this.#counts },
    };
  }

  #answerDatagram(message: Buffer, from: RemoteInfo): void {
    const reply = this.#reply;
    this.#counts[answer(this.#zone, message, 'udp', reply)]++;
    if (reply.length === 0) return;
    const taken = this.#listener.send(reply.bytes.subarray(0, reply.length), from);
    if (!taken) this.#reply = createReply();
  }

  #answerStream(query: TcpQuery): void {
    const reply = this.#reply;
    this.#counts[answerStream(this.#zone, query, reply)]++;
    query.respond(reply.length === 0 ? undefined : reply.bytes.subarray(0, reply.length));
  }
}

/** Answers a query that came by TCP into `reply`. */
export function answerStream(zone: Zone, { message, length }: TcpQuery, reply: Reply): QueryResult {
  return length > message.length ? refuseOverlong(message, reply) : answer(zone, message, 'tcp', reply);
}

export function emptyCounts(): QueryCounts {
  const counts: Partial<QueryCounts> = {};
  for (const result of QUERY_RESULTS) counts[result] = 0;
  return counts as QueryCounts;
}
