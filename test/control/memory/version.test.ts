import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { requireVersion } from '../../../src/control/memory/restore.ts';
import type { VmmApi } from '../../../src/firecracker/api.ts';

describe('saved memory', () => {
  const vmm = (vmm_version: string): VmmApi => ({
    send: async () => ({ id: 'x', state: 'Not started', vmm_version, app_name: 'Firecracker' }),
    async [Symbol.asyncDispose]() {},
  });

  it('goes on in the version of the VMM that wrote it', async () => {
    await requireVersion(vmm('1.16.1'), '1.16.1');
    await requireVersion(vmm('1.16.1+fcqemu'), '1.16.1+fcqemu');
  });

  it('goes on in no other one', async () => {
    const refusal = { code: 'conflict', message: 'Version 1.13.1 of the VMM wrote its state, and 1.16.1 is here now.' };
    await assert.rejects(requireVersion(vmm('1.16.1'), '1.13.1'), refusal);
    await assert.rejects(requireVersion(vmm('1.16.1'), '1.16.1+fcqemu'), { code: 'conflict' });
  });
});
