/** Two ends of a connection as the kernel makes it: with buffers that fill up, and an end that only a reader sees. */
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { tempDir } from './temp-dir.ts';

/** The second end stays writable when the first has ended, as an upgraded HTTP connection does. */
export async function socketPair(t: TestContext): Promise<[Socket, Socket]> {
  const server = createServer({ allowHalfOpen: true }).listen(join(await tempDir(t), 'pair.sock'));
  await once(server, 'listening');
  const first = connect(server.address() as string);
  const [second] = (await once(server, 'connection')) as [Socket];
  server.close();
  for (const socket of [first, second]) {
    socket.on('error', () => {});
    t.after(() => socket.destroy());
  }
  return [first, second];
}
