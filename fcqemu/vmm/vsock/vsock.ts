/**
 * Firecracker's vsock over Unix sockets: hosts connect to `uds_path` and say `CONNECT <port>`, guests reach
 * `<uds_path>_<port>`. The guest's side is an agent on a virtio-serial port instead of a vsock driver.
 */
import { unlinkSync } from 'node:fs';
import { createConnection, createServer, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { Fault, ioErrorDebug, ioErrorText } from '../../fault.ts';
import { listenOn } from '../../unix-socket.ts';
import { HostPorts } from './host-ports.ts';
import { join, Multiplexer } from './multiplexer.ts';

const PREFIX = 'Vsock config error: Cannot create backend for vsock device';

export interface StoredVsock {
  guest_cid: number;
  uds_path: string;
}

/** `CONNECT 4294967295\n` and some slack; longer requests are cut off. */
const MAX_REQUEST_BYTES = 32;

/** Host ports are numbered from here and wrap before twice as much. */
const FIRST_HOST_PORT = 2 ** 30;

export class Vsock {
  config: StoredVsock | null = null;
  #server: Server | undefined;
  #multiplexer: Multiplexer | undefined;
  #nextHostPort = FIRST_HOST_PORT;

  /** Binds the socket, as the PUT does; a second PUT replaces the first. @throws Fault */
  async put(config: StoredVsock): Promise<void> {
    try {
      this.#remove();
      await this.bind(config);
    } catch (error) {
      throw new Fault(`${PREFIX}: ${bindProblem(error)}`, {
        debug: `CreateVsockBackend(UnixBind(${ioErrorDebug(error)}))`,
      });
    }
  }

  /** Binds the socket of a device that there was none before. @throws as `listenOn` */
  async bind(config: StoredVsock): Promise<void> {
    this.#server = await listen(config.uds_path, (socket) => this.#serve(socket));
    this.config = config;
  }

  /** Takes the socket away; that it is there no more is an error, and there is none afterwards. */
  #remove(): void {
    if (!this.config) return;
    const { uds_path } = this.config;
    this.config = null;
    try {
      unlinkSync(uds_path);
    } finally {
      this.#server?.close();
    }
  }

  /** Connects the guest's port of a machine that is about to run. */
  attach(port: Duplex): void {
    const { config } = this;
    if (!config) return;
    let hostPorts: HostPorts | undefined;
    let arePortsWanted = false;
    const multiplexer = new Multiplexer(port, {
      guestCid: config.guest_cid,
      onGuestConnect: (number) => connectUnix(`${config.uds_path}_${number}`),
      onAgent: (wantsPorts) => {
        arePortsWanted = wantsPorts;
        if (!wantsPorts || port.destroyed) return;
        // one for all agents, as to begin anew costs a guest nothing
        if (hostPorts) hostPorts.tellAgain();
        else {
          hostPorts = new HostPorts(config.uds_path, (number, isOpen) => {
            if (arePortsWanted) multiplexer.announcePort(number, isOpen);
          });
        }
      },
    });
    this.#multiplexer = multiplexer;
    port.once('close', () => hostPorts?.close());
  }

  /** Makes the agent of a restored machine begin anew. */
  announceRestore(): void {
    this.#multiplexer?.announceRestore();
  }

  /** One host connection; whatever goes wrong before OK closes it without a word. */
  #serve(socket: Socket): void {
    let request = Buffer.alloc(0);
    socket.on('error', () => socket.destroy());
    const onData = (bytes: Buffer) => {
      request = Buffer.concat([request, bytes]);
      const end = request.indexOf('\n');
      if (end === -1 && request.length < MAX_REQUEST_BYTES) return;
      socket.off('data', onData);
      socket.pause();
      const port =
        end === -1 || end >= MAX_REQUEST_BYTES ? undefined : parseConnect(request.toString('latin1', 0, end));
      if (port === undefined) socket.destroy();
      else void this.#connect(socket, port, request.subarray(end + 1));
    };
    socket.on('data', onData);
  }

  async #connect(socket: Socket, port: number, early: Buffer): Promise<void> {
    let guest: Duplex;
    try {
      if (!this.#multiplexer) throw new Error('the guest is not running');
      guest = await this.#multiplexer.connect(port);
    } catch {
      socket.destroy();
      return;
    }
    // the guest may have reset it right after it accepted it
    if (guest.destroyed) {
      socket.destroy();
      return;
    }
    socket.write(`OK ${this.#takeHostPort()}\n`);
    if (early.length > 0) guest.write(early);
    join(guest, socket);
  }

  #takeHostPort(): number {
    const port = this.#nextHostPort;
    this.#nextHostPort = port + 1 < 2 * FIRST_HOST_PORT ? port + 1 : FIRST_HOST_PORT;
    return port;
  }
}

/** In Firecracker's words. */
export function bindProblem(error: unknown): string {
  return `Error binding to the host-side Unix socket: ${ioErrorText(error)}`;
}

/** The port of `CONNECT <port>`; undefined for anything else. */
function parseConnect(line: string): number | undefined {
  const port = Number(/^connect +(\d{1,10})$/i.exec(line.trimEnd())?.[1] ?? Number.NaN);
  return port <= 0xffff_ffff ? port : undefined;
}

async function listen(path: string, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer({ allowHalfOpen: true }, onConnection);
  await listenOn(server, path);
  // a connection that cannot be taken, as for want of descriptors, is its client's loss alone
  server.on('error', () => {});
  // the machine keeps the process alive, not its sockets
  server.unref();
  return server;
}

async function connectUnix(path: string): Promise<Socket> {
  const socket = createConnection({ path, allowHalfOpen: true });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once('error', reject);
  socket.once('connect', () => resolve());
  await promise;
  return socket;
}
