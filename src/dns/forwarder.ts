/** Asks the host's resolvers on behalf of guests: in the host's order, within limits that one guest can not use up. */
import { endOfQuestion, type Transport, udpLimitOf } from './answer.ts';
import { exchange } from './exchange.ts';
import type { Upstream } from './resolv-conf.ts';
import { RCODE } from './wire.ts';

/** One try at one server, and all tries together, in `ms`; a guest's own resolver gives up after 5 s. */
const TRY_MS = 2000;
const TOTAL_MS = 4800;
/** Queries under way for everyone and for one guest. */
const MAX_IN_FLIGHT = 512;
const MAX_PER_CLIENT = 128;
/** How long a server that did not answer is asked last, in `ms`. */
const AVOID_MS = 30_000;
/** Rounds through the servers: a lost datagram is sent once more. */
const ROUNDS = 2;

export interface ForwarderOptions {
  /** the resolvers to ask, best first */
  upstreams(): Promise<readonly Upstream[]>;
  /** limit for one try at one server, in `ms` */
  tryMs?: number;
  /** limit for all tries of one query, in `ms` */
  totalMs?: number;
  maxInFlight?: number;
  maxPerClient?: number;
}

/** `busy`: too many queries under way; `failed`: no server answered. */
export type ForwardResult = { outcome: 'forwarded'; response: Buffer } | { outcome: 'busy' | 'failed' };

export class Forwarder implements Disposable {
  readonly #options: ForwarderOptions;
  /** one per try under way */
  readonly #tries = new Set<AbortController>();
  #stopped = false;
  readonly #perClient = new Map<string, number>();
  /** when a server last failed to answer, by address and port */
  readonly #silentAt = new Map<string, number>();
  #inFlight = 0;

  constructor(options: ForwarderOptions) {
    this.#options = options;
  }

  get inFlight(): number {
    return this.#inFlight;
  }

  /** Asks for the answer to a well-formed query, which must stay unchanged meanwhile. Never rejects. */
  async forward(query: Buffer, transport: Transport, client: string): Promise<ForwardResult> {
    const { maxInFlight = MAX_IN_FLIGHT, maxPerClient = MAX_PER_CLIENT } = this.#options;
    const ofClient = this.#perClient.get(client) ?? 0;
    if (this.#inFlight >= maxInFlight || ofClient >= maxPerClient) return { outcome: 'busy' };
    this.#inFlight++;
    this.#perClient.set(client, ofClient + 1);
    try {
      const response = await this.#ask(query, transport);
      return response === undefined ? { outcome: 'failed' } : { outcome: 'forwarded', response };
    } finally {
      this.#inFlight--;
      const left = (this.#perClient.get(client) ?? 1) - 1;
      if (left === 0) this.#perClient.delete(client);
      else this.#perClient.set(client, left);
    }
  }

  /** Ends every query under way; they fail. */
  [Symbol.dispose](): void {
    this.#stopped = true;
    for (const attempt of this.#tries) attempt.abort(new Error('the forwarder stops'));
  }

  /** The first useful answer; a server's failure only when no other has better. */
  async #ask(query: Buffer, transport: Transport): Promise<Buffer | undefined> {
    const { tryMs = TRY_MS, totalMs = TOTAL_MS } = this.#options;
    const deadline = performance.now() + totalMs;
    let failure: Buffer | undefined;
    const servers = await this.#ordered();
    for (const upstream of Array.from({ length: ROUNDS }, () => servers).flat()) {
      const leftMs = Math.ceil(Math.min(tryMs, deadline - performance.now()));
      if (leftMs <= 0 || this.#stopped) break;
      const response = await this.#try(query, transport, upstream, leftMs);
      if (response === undefined) continue;
      const rcode = response.readUInt8(3) & 0xf;
      if (rcode !== RCODE.SERVFAIL && rcode !== RCODE.REFUSED && rcode !== RCODE.NOTIMP) {
        return transport === 'udp' ? fit(response, query) : response;
      }
      if (failure !== undefined) break;
      failure = response;
    }
    return failure;
  }

  async #try(query: Buffer, transport: Transport, upstream: Upstream, limitMs: number): Promise<Buffer | undefined> {
    const key = keyOf(upstream);
    const attempt = new AbortController();
    this.#tries.add(attempt);
    const timer = setTimeout(() => attempt.abort(new Error(`${key} did not answer`)), limitMs);
    try {
      const response = await exchange(query, upstream, { transport, signal: attempt.signal });
      this.#silentAt.delete(key);
      return response;
    } catch {
      this.#silentAt.set(key, performance.now());
      return undefined;
    } finally {
      clearTimeout(timer);
      this.#tries.delete(attempt);
    }
  }

  /** The host's order, but for servers that were silent a moment ago. */
  async #ordered(): Promise<Upstream[]> {
    const now = performance.now();
    const upstreams = await this.#options.upstreams().catch(() => []);
    const names = new Set(upstreams.map(keyOf));
    for (const [key, at] of this.#silentAt) {
      if (!names.has(key) || now - at > AVOID_MS) this.#silentAt.delete(key);
    }
    const silent = (upstream: Upstream) => (this.#silentAt.has(keyOf(upstream)) ? 1 : 0);
    return upstreams.toSorted((a, b) => silent(a) - silent(b));
  }
}

function keyOf({ address, port }: Upstream): string {
  return `${address}#${port}`;
}

/** The response if the client can take it; otherwise its header and question with TC, so that it asks by TCP. */
function fit(response: Buffer, query: Buffer): Buffer {
  if (response.length <= udpLimitOf(query)) return response;
  const cut = Buffer.from(response.subarray(0, endOfQuestion(query)));
  cut.writeUInt8(cut.readUInt8(2) | 0x02, 2);
  cut.fill(0, 6, 12);
  return cut;
}
