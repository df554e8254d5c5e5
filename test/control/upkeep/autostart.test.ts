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

  it('are those that nobody has started, stopped or changed while the ones before them started', async () => {
    await using place = await mortalHost();
    const { vms } = place.stores;
    const names = ['a', 'changed', 'deleted', 'had', 'last'];
    for (const [at, name] of names.entries()) {
      vms.insert({ ...place.vm, id: `0000000${at}`, name, address: `172.30.0.${at + 2}`, autostart: true });
    }
    const { host } = place.daemon();
    const id = (name: string) => host.stores.vms.get(name).id;
    const started: string[] = [];
    const startNow = async ({ name }: { name: string }) => {
      started.push(name);
      if (name !== 'a') return;
      host.stores.vms.update(id('changed'), { autostart: false });
      host.stores.vms.remove(id('deleted'));
      // a person who needed it for a moment
      for (const phase of ['running', 'stopped'] as const) host.stores.vms.update(id('had'), { phase });
    };
    await startWithHost(host, { startNow }, new AbortController().signal);
    assert.deepEqual(started, ['a', 'last']);
  });
});
