import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setVm } from '../../../src/control/vm/set.ts';
import { mortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';

describe('settings of a VM', () => {
  it('are only told with a dry run, and else kept; a plan of another policy is none', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert({ ...place.vm, restarts: { attempts: 1, nextAt: null } });
    const { host } = place.daemon();
    const wanted = { vcpus: 1, restartPolicy: 'always' } as const;
    const told = await setVm(host, 'web', wanted, true, quietProgress());
    assert.deepEqual(told.changes.map(({ setting }) => setting).sort(), ['restartPolicy', 'vcpus']);
    assert.equal(place.stores.vms.get('web').vcpus, 2);
    const { vm } = await setVm(host, 'web', wanted, false, quietProgress());
    assert.deepEqual([vm.vcpus, vm.restartPolicy, vm.restarts], [1, 'always', null]);
    assert.deepEqual((await setVm(host, 'web', wanted, false, quietProgress())).changes, []);
  });

  it('are as before when the packet rules cannot be written', async () => {
    await using place = await mortalHost();
    place.stores.vms.insert(place.vm);
    const { host } = place.daemon();
    const broken = { ...host, network: { ...host.network, rewrite: () => Promise.reject(new Error('no nft')) } };
    await assert.rejects(setVm(broken, 'web', { nat: false }, false, quietProgress()), /no nft/);
    assert.equal(place.stores.vms.get('web').nat, true);
  });
});
