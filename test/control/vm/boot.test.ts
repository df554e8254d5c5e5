import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname } from 'node:path';
import { text } from 'node:stream/consumers';
import { describe, it, type TestContext } from 'node:test';
import { loadConfig } from '../../../src/config/load.ts';
import type { Host } from '../../../src/control/host.ts';
import { configureVm } from '../../../src/control/vm/boot.ts';
import { vmmSocket } from '../../../src/storage/layout.ts';
import { hostSystem } from '../../support/host-system.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { tempDir } from '../../support/temp-dir.ts';

/** Configures a VM whose VMM answers `PUT /vsock` with these words; what was asked of it, and what the log has. */
async function configured(t: TestContext, refusal: string): Promise<{ asked: string[]; warned: string[] }> {
  const { config } = await loadConfig({ env: { BANGER_HOME: await tempDir(t) }, uid: 0 });
  const vm = sampleVm({ phase: 'starting' });
  const asked: string[] = [];
  const warned: string[] = [];
  const socket = vmmSocket(config.paths.run, vm.id);
  await mkdir(dirname(socket), { recursive: true });
  const vmm = createServer(async (request, response) => {
    asked.push(`${request.method} ${request.url}`);
    await text(request);
    if (request.url === '/') return response.end('{"vmm_version":"1.16.1"}');
    response.statusCode = request.url === '/vsock' ? 400 : 204;
    response.end(request.url === '/vsock' ? JSON.stringify({ fault_message: refusal }) : '');
  }).listen(socket);
  await once(vmm, 'listening');
  t.after(() => vmm.close());
  const host = {
    config,
    network: { mtu: async () => 1500 },
    stores: { ledger: { of: () => [] } },
    system: hostSystem(),
    log: { warn: (_facts: object, words: string) => warned.push(words) },
  } as unknown as Host;
  const boot = { kernel: '/k', initrd: undefined, defaults: {} } as unknown as Parameters<typeof configureVm>[2];
  await configureVm(host, vm, boot, AbortSignal.timeout(10_000));
  return { asked, warned };
}

/** Firecracker's own words. */
const binding = (why: string) =>
  `Vsock config error: Cannot create backend for vsock device: Error binding to the host-side Unix socket: ${why}`;

describe('a VM on a file system without sockets', () => {
  it('is configured without the way to its agent, and the log says so', async (t) => {
    const { asked, warned } = await configured(t, binding('Operation not permitted (os error 1)'));
    assert.ok(asked.includes('PUT /vsock') && asked.includes('PUT /network-interfaces/eth0'), asked.join());
    assert.deepEqual(warned, ['a guest has no agent: its file system has no sockets']);
  });

  it('is no excuse for any other refusal', async (t) => {
    for (const words of [binding('Address in use (os error 98)'), 'Vsock config error: no'])
      await assert.rejects(configured(t, words), /^BangerError: The VMM refused PUT \/vsock: /);
  });
});
