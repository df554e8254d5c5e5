/** A UDP and a TCP socket on one address and port; when they can not be had it says why and keeps trying. */
import { createSocket, type RemoteInfo, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';
import { messageOf, systemCode } from '../errors.ts';
import { type TcpOptions, TcpService } from './tcp.ts';

/** First wait before the next try, and the longest, in `ms`. */
const RETRY_MS = 2000;
const RETRY_MAX_MS = 30_000;
/** Room for bursts of queries, in bytes; the kernel gives less where it is set to. */
const RECEIVE_BUFFER_BYTES = 1024 * 1024;
/** Tries to find a number free for both protocols when the caller leaves the port open. */
const ANY_PORT_TRIES = 20;

export interface ListenerOptions extends TcpOptions {
  address: string;
  /** port for both protocols; 0 takes any that is free */
  port: number;
  onDatagram(message: Buffer, from: RemoteInfo): void;
  /** names the process that holds a port, e.g. "dnsmasq (pid 812)"; undefined when it can not be told */
  findHolder?(address: string, port: number): Promise<string | undefined>;
  /** first wait before another try to open the port, in `ms` */
  retryMs?: number;
}

export interface ListenerStatus {
  /** `waiting`: the port can not be opened for now and is tried again */
  state: 'stopped' | 'listening' | 'waiting';
  address: string;
  port: number;
  tcpConnections: number;
  /** process that holds the port while `waiting`, where it could be found */
  holder?: string;
  lastError?: ListenerError;
}

export interface ListenerError {
  /** ISO 8601 */
  at: string;
  message: string;
}

interface Sockets {
  udp: Socket;
  tcp: TcpService;
  port: number;
}

export class Listener implements AsyncDisposable {
  readonly #options: ListenerOptions;
  #started = false;
  #sockets: Sockets | undefined;
  #opening: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #retryMs = 0;
  #holder: string | undefined;
  #lastError: ListenerError | undefined;

  constructor(options: ListenerOptions) {
    this.#options = options;
  }

  /** Tries to open the port; resolves after the first try, whether or not it succeeded. Never rejects. */
  async start(): Promise<void> {
    this.#started = true;
    this.#retryMs = this.#options.retryMs ?? RETRY_MS;
    await this.retryNow();
  }

  /** Tries again without waiting, e.g. because the address has just come up. */
  async retryNow(): Promise<void> {
    if (!this.#started || this.#sockets !== undefined) return;
    this.#opening ??= this.#open().finally(() => {
      this.#opening = undefined;
    });
    await this.#opening;
  }

  async stop(): Promise<void> {
    this.#started = false;
    clearTimeout(this.#retry);
    await this.#opening;
    const sockets = this.#sockets;
    this.#sockets = undefined;
    if (sockets) await closeSockets(sockets);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }

  get status(): ListenerStatus {
    return {
      state: this.#sockets ? 'listening' : this.#started ? 'waiting' : 'stopped',
      address: this.#options.address,
      port: this.#sockets?.port ?? this.#options.port,
      tcpConnections: this.#sockets?.tcp.connectionCount ?? 0,
      ...(this.#holder === undefined ? {} : { holder: this.#holder }),
      ...(this.#lastError === undefined ? {} : { lastError: this.#lastError }),
    };
  }

  /**
   * Sends a datagram; false when the kernel did not take it at once, so that `bytes` stay in use for a while.
   * Datagrams may be lost anyway: nobody is told when one can not be sent.
   */
  send(bytes: Uint8Array, to: RemoteInfo): boolean {
    const udp = this.#sockets?.udp;
    if (udp === undefined) return true;
    udp.send(bytes, to.port, to.address);
    return udp.getSendQueueCount() === 0;
  }

  async #open(): Promise<void> {
    clearTimeout(this.#retry);
    try {
      const sockets = await this.#bind();
      this.#holder = undefined;
      if (this.#started) this.#sockets = sockets;
      else await closeSockets(sockets);
    } catch (error) {
      await this.#explain(error);
      if (!this.#started) return;
      this.#retry = setTimeout(() => void this.retryNow(), this.#retryMs).unref();
      this.#retryMs = Math.min(this.#retryMs * 2, RETRY_MAX_MS);
    }
  }

  async #bind(): Promise<Sockets> {
    for (let tries = 1; ; tries++) {
      const udp = this.#createUdp();
      const tcp = new TcpService(this.#options);
      try {
        const port = await bindUdp(udp, this.#options);
        // from here on nobody else listens for them
        udp.on('error', (error) => this.#note(error));
        await listen(tcp, this.#options.address, port);
        tcp.server.on('error', (error) => this.#note(error));
        return { udp, tcp, port };
      } catch (error) {
        await closeSockets({ udp, tcp });
        const mayBeFree = this.#options.port === 0 && tries < ANY_PORT_TRIES;
        if (systemCode(error) !== 'EADDRINUSE' || !mayBeFree) throw error;
      }
    }
  }

  #createUdp(): Socket {
    const family = isIPv6(this.#options.address) ? 6 : 4;
    const udp = createSocket({
      type: family === 6 ? 'udp6' : 'udp4',
      // peers are addresses already: without this every answer takes a round through the event loop
      lookup: (address, _options, callback) => callback(null, address, family),
    });
    udp.on('message', (message, from) => {
      // a forged port 0 can not be answered, and `send` would throw
      if (from.port === 0 || this.#options.acceptsPeer?.(from.address) === false) return;
      this.#options.onDatagram(message, from);
    });
    return udp;
  }

  async #explain(error: unknown): Promise<void> {
    const { address, port, findHolder } = this.#options;
    const code = systemCode(error);
    const place = `${address} port ${port}`;
    // what is known is told until more is
    this.#holder = code === 'EADDRINUSE' ? await findHolder?.(address, port).catch(() => undefined) : undefined;
    if (code === 'EADDRINUSE') {
      this.#note(`${place} is in use${this.#holder === undefined ? ' by another process' : ` by ${this.#holder}`}.`);
    } else if (code === 'EACCES') {
      this.#note(`${place} may not be opened by this user.`);
    } else if (code === 'EADDRNOTAVAIL') {
      this.#note(`${address} is not an address of this host at the moment.`);
    } else {
      this.#note(error);
    }
  }

  #note(error: unknown): void {
    const message = typeof error === 'string' ? error : messageOf(error);
    this.#lastError = { at: new Date().toISOString(), message };
  }
}

async function bindUdp(udp: Socket, { address, port }: ListenerOptions): Promise<number> {
  // our lookup answers at once, and then `bind` tells how it went before it returns
  const listening = once(udp, 'listening');
  udp.bind({ address, port, exclusive: true });
  await listening;
  udp.setRecvBufferSize(RECEIVE_BUFFER_BYTES);
  return udp.address().port;
}

async function listen(tcp: TcpService, host: string, port: number): Promise<void> {
  tcp.server.listen({ host, port, exclusive: true });
  await once(tcp.server, 'listening');
}

async function closeSockets({ udp, tcp }: Pick<Sockets, 'udp' | 'tcp'>): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  udp.close(() => resolve());
  await Promise.all([promise, tcp.close()]);
}
