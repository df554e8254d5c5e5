/** Clients of a vsock on this host, and what is sent to it and waits in it. */
import { once } from 'node:events';
import { createConnection, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { after, type TestContext } from 'node:test';
import { encodeFrame, OP } from '../../../fcqemu/vmm/vsock/frames.ts';
import { attachedAgent, type FakeAgent } from './vsock-agent.ts';

/** A vsock with an agent that accepts port 52 and echoes what it gets there. */
export async function withEcho(t: TestContext): Promise<{ path: string; agent: FakeAgent }> {
  const { path, agent } = await attachedAgent(t);
  agent.onFrame = ({ op, stream, argument, payload }) => {
    if (op === OP.connect) agent.send(argument === 52 ? OP.accept : OP.reset, stream);
    if (op === OP.data) agent.send(OP.data, stream, 0, payload);
    if (op === OP.finish) agent.send(OP.finish, stream);
  };
  await agent.hello();
  return { path, agent };
}

const sockets: Socket[] = [];
after(() => {
  for (const socket of sockets) socket.destroy();
});

export async function connect(path: string, request: string): Promise<Socket> {
  const socket = createConnection({ path, allowHalfOpen: true });
  sockets.push(socket);
  await once(socket, 'connect');
  socket.write(request);
  return socket;
}

/** @returns how many frames waited at most to be read by the guest, as far as its port was asked to take them */
export function watchQueue(port: Duplex): () => number {
  let [waiting, most] = [0, 0];
  const write = port.write.bind(port) as (bytes: Buffer, done: () => void) => boolean;
  port.write = ((bytes: Buffer, done?: () => void) => {
    waiting += 1;
    most = Math.max(most, waiting);
    return write(bytes, () => {
      waiting -= 1;
      done?.();
    });
  }) as Duplex['write'];
  return () => most;
}

export function repeated(count: number, op: number, stream: number, argument = 0): Buffer {
  return Buffer.concat(Array.from({ length: count }, () => encodeFrame(op, stream, argument)));
}

export async function line(socket: Socket): Promise<string> {
  let seen = '';
  for await (const chunk of socket.iterator({ destroyOnReturn: false })) {
    seen += chunk.toString();
    if (seen.includes('\n')) break;
  }
  return seen;
}
