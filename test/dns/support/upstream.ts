/** A resolver that behaves as a test wants: it gets every query and decides what to send back. */
import { createSocket, type RemoteInfo } from 'node:dgram';
import { once } from 'node:events';
import { createServer, type Socket } from 'node:net';
import dnsPacket, { type Answer } from 'dns-packet';
import { FrameReader, frame } from '../../../src/dns/frames.ts';
import type { Upstream } from '../../../src/dns/resolv-conf.ts';
import { freePort } from './clients.ts';

export interface UpstreamQuery {
  bytes: Buffer;
  transport: 'udp' | 'tcp';
  /** port the query came from */
  port: number;
  /** Sends bytes back to where the query came from. */
  send(bytes: Buffer): void;
}

export interface FakeUpstream extends Upstream, AsyncDisposable {
  /** every query so far */
  queries: UpstreamQuery[];
}

export async function startUpstream(onQuery: (query: UpstreamQuery) => void): Promise<FakeUpstream> {
  const queries: UpstreamQuery[] = [];
  const take = (query: UpstreamQuery) => {
    queries.push(query);
    onQuery(query);
  };
  const sockets = new Set<Socket>();
  const tcp = createServer((socket) => {
    sockets.add(socket);
    const frames = new FrameReader(65_535);
    socket.on('error', () => {});
    socket.on('data', (chunk: Buffer) => {
      frames.push(chunk, (message) => {
        const send = (reply: Buffer) => void socket.write(frame(reply));
        take({ bytes: Buffer.from(message), transport: 'tcp', port: socket.remotePort ?? 0, send });
      });
    });
  });
  const port = await freePort();
  tcp.listen(port, '127.0.0.1');
  await once(tcp, 'listening');
  const udp = createSocket('udp4');
  udp.on('message', (bytes: Buffer, from: RemoteInfo) => {
    take({ bytes, transport: 'udp', port: from.port, send: (reply) => udp.send(reply, from.port, from.address) });
  });
  udp.bind(port, '127.0.0.1');
  await once(udp, 'listening');
  return {
    address: '127.0.0.1',
    port,
    queries,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await Promise.all([once(udp.close(), 'close'), once(tcp.close(), 'close')]);
    },
  };
}

/** A response to a query: its id and question with these answers and flags. */
export function respond(bytes: Buffer, answers: Answer[], flags = 0): Buffer {
  const { id, questions = [] } = dnsPacket.decode(bytes);
  const recursion = dnsPacket.RECURSION_DESIRED | dnsPacket.RECURSION_AVAILABLE;
  return dnsPacket.encode({ type: 'response', id: id ?? 0, flags: flags | recursion, questions, answers });
}

/** TXT records of about 250 bytes each. */
export function manyRecords(name: string, count: number): Answer[] {
  return Array.from({ length: count }, (_, index) => ({
    type: 'TXT',
    name,
    ttl: 1,
    data: `${index}`.padEnd(240, '.'),
  }));
}
