import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { startWithHost } from '../../../src/control/upkeep/autostart.ts';
import { mortalHost } from '../../support/mortal-host.ts';

describe('VMs that start with the host', () => {
  it('are started once after each boot; one that fails keeps no other from it', async () => {
    await using place = await mortalHost();
    const { stores, vm } = place;
    stores.vms.insert({ ...vm, autostart: true });
    stores.vms.insert({ ...vm, id: '0000000b', name: 'db', address: '172.30.0.3', autostart: true });
    stores.vms.insert({ ...vm, id: '0000000c', name: 'off', address: '172.30.0.4' });
    const { host } = place.daemon();
    const started: string[] = [];
    const restarts = {
      startNow: async ({ name }: { name: string }) => {
        started.push(name);
        if (name === 'db') throw new Error('no');
      },
    };
    const ending = new AbortController();
    await startWithHost(host, restarts, AbortSignal.abort());
    assert.deepEqual(started, [], 'a daemon that ends leaves it to the next one');
    await startWithHost(host, restarts, ending.signal);
    await startWithHost(host, restarts, ending.signal);
    assert.deepEqual(started, ['db', 'web']);
  });
});
