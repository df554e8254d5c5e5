/** Feeding device state to a QEMU that may go away while it reads. */
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { describe, it } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import type { MicroVm } from '../../fcqemu/vmm/micro-vm.ts';
import type { SnapshotFile } from '../../fcqemu/vmm/snapshot-file.ts';
import { loadDeviceState } from '../../fcqemu/vmm/snapshot-load.ts';

describe('device state that is loaded', () => {
  it('fails with what QEMU said when QEMU closes its end while it is sent', async (t) => {
    const server = createServer((socket) => socket.once('data', () => socket.destroy()));
    t.after(() => server.close());
    const vm = {
      qemuVersion: '10.0.0',
      execute: async (command: string, { uri }: { uri?: string }) => {
        if (command !== 'migrate-incoming' || !uri) return;
        await new Promise<void>((resolve) => server.listen(uri.slice('unix:'.length), resolve));
      },
      incomingEnd: async () => {
        await delay(200);
        throw new Error('QEMU rejected the device state');
      },
    };
    const file = { header: { qemuVersion: '10.0.0' }, state: Buffer.alloc(16 * 2 ** 20) };
    await assert.rejects(
      loadDeviceState(vm as unknown as MicroVm, file as unknown as SnapshotFile),
      /Failed to build microVM from snapshot: QEMU rejected the device state/,
    );
  });
});
