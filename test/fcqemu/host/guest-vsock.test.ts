/** Programs of a Linux guest that use AF_VSOCK, which fcqemu-vsock joins with the host. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createConnection, createServer } from 'node:net';
import { join } from 'node:path';
import { buffer, text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { tempDir } from '../../support/temp-dir.ts';
import { linuxSkipReason, prepared, said, start } from '../support/linux-guest.ts';
import { startVmm, type Vmm } from '../support/vmm-process.ts';

const source = (path: string) => fileURLToPath(new URL(path, import.meta.url));
const PROGRAMS = { vsock: source('../../../fcqemu/guest/vsock.c'), peer: source('../support/vsock-peer.c') };

const skip = linuxSkipReason() || (spawnSync('musl-gcc', ['--version']).error ? 'musl-gcc is not installed' : false);

const SCRIPT = `/fcqemu/vsock & /fcqemu/peer serve 52 & /fcqemu/peer hang-up 53 &
while read c p x; do /fcqemu/peer $c $p $x; echo "done $c $p"; done`;

async function compiled(t: TestContext): Promise<Record<string, Buffer>> {
  const dir = await tempDir(t);
  return Object.fromEntries(
    Object.entries(PROGRAMS).map(([name, path]) => {
      const output = join(dir, name);
      const { status, stderr } = spawnSync('musl-gcc', ['-static', '-Os', '-o', output, path], { encoding: 'utf8' });
      assert.equal(status, 0, stderr);
      return [name, readFileSync(output)];
    }),
  );
}

/** Connects to a port of the guest, sends, and reads to the end. */
async function exchange(path: string, port: number, bytes: Buffer): Promise<Buffer> {
  const socket = createConnection({ path, allowHalfOpen: true });
  await once(socket, 'connect');
  socket.end(Buffer.concat([Buffer.from(`CONNECT ${port}\n`), bytes]));
  return await buffer(socket);
}

async function ask(vmm: Vmm, command: string, answer: string): Promise<void> {
  vmm.process.stdin?.write(`${command}\n`);
  await said(vmm, answer);
}

/** Both ways, through one running machine. */
async function bothWays(t: TestContext, vmm: Vmm, path: string): Promise<void> {
  const large = Buffer.alloc(1_500_000, 'a vsock ');
  const answers = await Promise.all(['small', large, 'other'].map((bytes) => exchange(path, 52, Buffer.from(bytes))));
  for (const [at, sent] of ['small', large, 'other'].entries()) {
    const answer = answers[at] ?? Buffer.alloc(0);
    const begin = answer.indexOf('\n') + 1;
    assert.match(answer.toString('latin1', 0, begin), /^OK \d+\n$/);
    assert.ok(answer.subarray(begin).equals(Buffer.from(sent)), `${answer.length} bytes came back`);
  }
  assert.equal((await exchange(path, 54, Buffer.alloc(0))).toString(), '');

  await ask(vmm, 'ask 7001 x', 'asked 7001: Connection reset by peer');
  const received: string[] = [];
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let request = '';
    socket.on('data', (bytes) => {
      request += bytes.toString('latin1');
    });
    socket.once('end', () => {
      received.push(request);
      socket.end(`${request.length} bytes beginning with ${JSON.stringify(request.slice(0, 5))}`);
    });
  });
  server.listen(`${path}_7000`);
  await once(server, 'listening');
  t.after(() => server.close());
  // the guest is told of it, a moment later
  for (let attempt = 0; attempt < 100 && received.length === 0; attempt++) {
    vmm.process.stdin?.write('ask 7000 hello\n');
    await delay(200);
  }
  await said(vmm, 'asked 7000: 5 bytes beginning with "hello"');
  await ask(vmm, 'flood 7000 1000000', 'asked 7000: 1000000 bytes beginning with');
}

describe('fcqemu-vsock in a Linux guest', { skip, timeout: 300_000 }, () => {
  it('joins programs with the host, both ways, also in a restored machine', async (t) => {
    const vmm = await prepared(t, SCRIPT, { stdin: 'pipe', programs: await compiled(t) });
    const path = join(vmm.dir, 'v.sock');
    await vmm.put('/vsock', { guest_cid: 77, uds_path: path });
    await start(vmm);
    await said(vmm, 'serve 52');
    await said(vmm, 'this is context id 77');
    await bothWays(t, vmm, path);

    await vmm.patch('/vm', { state: 'Paused' });
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await vmm.put('/snapshot/create', body);
    const clone = await startVmm(t, { stdin: 'pipe' });
    const uds_path = join(clone.dir, 'other.sock');
    await clone.put('/snapshot/load', { ...body, resume_vm: true, vsock_override: { uds_path } });
    await said(clone, 'this is context id 77');
    await bothWays(t, clone, uds_path);
  });

  it('closes a host connection that a program closes', async (t) => {
    const vmm = await prepared(t, SCRIPT, { stdin: 'pipe', programs: await compiled(t) });
    const path = join(vmm.dir, 'v.sock');
    await vmm.put('/vsock', { guest_cid: 77, uds_path: path });
    await start(vmm);
    await said(vmm, 'hang-up 53');
    await said(vmm, 'this is context id 77');
    const socket = createConnection({ path, allowHalfOpen: true });
    await once(socket, 'connect');
    socket.write('CONNECT 53\n');
    socket.on('error', () => {});
    assert.match(await text(socket), /^OK \d+\nbye$/);
    for (let attempt = 0; attempt < 100 && !socket.errored; attempt++) {
      socket.write('x');
      await delay(50);
    }
    assert.ok(socket.errored, 'the connection is still open');
  });

  it('has nothing to do where there is no port', async (t) => {
    const vmm = await prepared(t, '/fcqemu/vsock; echo "it ended with $?"; reboot -f', { programs: await compiled(t) });
    await start(vmm);
    assert.match(
      (await vmm.ended).stdout,
      /there is no port named fcqemu\.vsock, so there is nothing to do\r?\nit ended with 0/,
    );
  });
});
