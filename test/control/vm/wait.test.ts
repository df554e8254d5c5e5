import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseWaitedFor, waitForVm } from '../../../src/control/vm/wait.ts';
import { mortalHost } from '../../support/mortal-host.ts';

const never = new AbortController().signal;

describe('waiting for a VM', () => {
  it('knows what can be waited for', () => {
    assert.deepEqual(parseWaitedFor('port=80'), { kind: 'port', port: 80 });
    for (const text of ['port=0', 'port=65536', 'up']) {
      assert.throws(() => parseWaitedFor(text), { code: 'invalid_input' });
    }
  });

  it('ends when the record says so, when the time is over, and when the VM is deleted', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { host } = place.daemon();
    const { vms } = host.stores;
    assert.equal((await waitForVm(host, 'web', { kind: 'stopped' }, 1000, never)).name, 'web');
    await assert.rejects(waitForVm(host, 'web', { kind: 'running' }, 20, never), { code: 'timeout' });
    const running = waitForVm(host, 'web', { kind: 'running' }, 10_000, never);
    vms.update(place.vm.id, { phase: 'running' });
    assert.equal((await running).phase, 'running');
    const gone = waitForVm(host, 'web', { kind: 'stopped' }, 10_000, never);
    vms.remove(place.vm.id);
    await assert.rejects(gone, { code: 'not_found' });
  });
});
