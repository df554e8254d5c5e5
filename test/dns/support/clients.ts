/** Small DNS clients for the listeners' tests. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import dnsPacket, { type DecodedPacket } from 'dns-packet';
import { FrameReader, frame } from '../../../src/dns/frames.ts';

export interface Target {
  address: string;
  port: number;
}

/** Below the numbers the kernel gives to clients, of which a test next to this one may have ten thousand. */
const PORTS = { first: 20_000, count: 12_000 };

/** A port of 127.0.0.1 that is free for UDP and TCP, and that no client is given meanwhile. */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const port = PORTS.first + Math.floor(Math.random() * PORTS.count);
    const udp = createSocket('udp4');
    const tcp = createServer();
    try {
      udp.bind(port, '127.0.0.1');
      await once(udp, 'listening');
      tcp.listen(port, '127.0.0.1');
      await once(tcp, 'listening');
      return port;
    } catch {
      // taken; another number may not be
    } finally {
      udp.close();
      if (tcp.listening) await once(tcp.close(), 'close');
    }
  }
  throw new Error('no free port found');
}

/** Sends one datagram; the answer, or undefined when none comes in time. */
export async function askUdp(target: Target, bytes: Buffer, waitMs = 3000): Promise<DecodedPacket | undefined> {
  const socket = createSocket('udp4');
  try {
    socket.send(bytes, target.port, target.address);
    const [message] = (await once(socket, 'message', { signal: AbortSignal.timeout(waitMs) })) as [Buffer];
    return dnsPacket.decode(message);
  } catch (error) {
    if (error instanceof Error && error.name === 'AbortError') return undefined;
    throw error;
  } finally {
    socket.close();
  }
}

export interface TcpClient extends Disposable {
  socket: Socket;
  /** Sends queries in one write. */
  send(...queries: Buffer[]): void;
  /** The next answer; rejects when the connection ends instead. */
  next(): Promise<DecodedPacket>;
  /** Resolves when the other side has closed the connection. */
  closed: Promise<void>;
}

export async function openTcp(target: Target, localAddress?: string): Promise<TcpClient> {
  const from = localAddress === undefined ? {} : { localAddress };
  const socket = connect({ host: target.address, port: target.port, ...from });
  const frames = new FrameReader(65_535);
  const answers: Buffer[] = [];
  const waiting: (() => void)[] = [];
  let ended = false;
  const closed = new Promise<void>((resolve) => {
    socket.on('close', () => {
      ended = true;
      for (const wake of waiting.splice(0)) wake();
      resolve();
    });
  });
  socket.on('error', () => {});
  socket.on('data', (chunk: Buffer) => {
    frames.push(chunk, (message) => answers.push(Buffer.from(message)));
    for (const wake of waiting.splice(0)) wake();
  });
  await once(socket, 'connect');
  return {
    socket,
    closed,
    send: (...queries) => socket.write(Buffer.concat(queries.map(frame))),
    async next() {
      for (;;) {
        const answer = answers.shift();
        if (answer !== undefined) return dnsPacket.decode(answer);
        if (ended) throw new Error('the server closed the connection');
        await new Promise<void>((resolve) => waiting.push(resolve));
      }
    },
    [Symbol.dispose]: () => socket.destroy(),
  };
}

export async function askTcp(target: Target, bytes: Buffer): Promise<DecodedPacket> {
  using client = await openTcp(target);
  client.send(bytes);
  return await client.next();
}
