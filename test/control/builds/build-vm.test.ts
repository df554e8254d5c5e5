/** The machine of a build while its disk is copied. */
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname } from 'node:path';
import { PassThrough } from 'node:stream';
import { it } from 'node:test';
import type { ClientChannel } from 'ssh2';
import { whilePaused } from '../../../src/control/builds/build-vm.ts';
import type { Host } from '../../../src/control/host.ts';
import type { SshConnection } from '../../../src/guest/ssh.ts';
import { vmmSocket } from '../../../src/storage/layout.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** A guest that has done whatever it is asked to. */
const connection: SshConnection = {
  async exec() {
    const channel = Object.assign(new PassThrough(), { stderr: new PassThrough(), close() {} });
    setImmediate(() => channel.emit('close', 0));
    return channel as unknown as ClientChannel;
  },
  closed: false,
  onClose: () => {},
  async [Symbol.asyncDispose]() {},
};

it('goes on when nobody knows whether it was paused', async (t) => {
  const [vm, run] = [sampleVm(), await tempDir(t)];
  const host = {
    config: { paths: { run, store: run } },
    system: { vmUsers: {} },
    stores: { ledger: { of: () => [] } },
  } as unknown as Host;
  const asked: string[] = [];
  const vmm = createServer((request, response) => {
    request.setEncoding('utf8').on('data', (body: string) => {
      asked.push(JSON.parse(body).state);
      // the connection ends before the answer
      if (asked.length === 1) request.socket.destroy();
      else response.writeHead(204).end();
    });
  });
  await mkdir(dirname(vmmSocket(run, vm.id)), { recursive: true });
  await new Promise<void>((resolve) => void vmm.listen(vmmSocket(run, vm.id), resolve));
  t.after(() => vmm.close());
  const work = t.mock.fn(async () => {});
  await assert.rejects(whilePaused(host, vm, connection, work));
  assert.deepEqual(asked, ['Paused', 'Resumed']);
  assert.equal(work.mock.callCount(), 0);
});
