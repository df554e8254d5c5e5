/** Forks as the host sees them: identity, what is published and when, and every place where a daemon can die. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import type { VmForkResult } from '../../../src/api/vm.ts';
import { becameReady } from '../../../src/core/vm-changes.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import type { WakeRequest } from '../../../src/guest/agent/wake-request.ts';
import { imageFiles, vmFiles } from '../../../src/storage/layout.ts';
import { OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { type Guests, withAgents } from '../../support/waking-agents.ts';

/** A VM that runs, and is watched by nobody. */
async function runningVm(suspended = false): Promise<MortalHost> {
  const place = await mortalHost();
  const { stores, config, vm } = place;
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
  stores.vms.insert(vm);
  const daemon = withAgents(place.daemon(), { woken: [] });
  const started = await daemon.finish(() => daemon.life.start('web', { until: 'reachable' }));
  assert.equal(started?.state, 'succeeded');
  stores.vms.update(vm.id, becameReady(stores.vms.get('web'), { at: new Date(), failedUnits: [] }));
  if (suspended) assert.equal((await daemon.finish(() => daemon.life.suspend('web')))?.state, 'succeeded');
  await daemon.drop();
  return place;
}

/** What is left of everything, in a form that is the same on each host. */
function look(place: MortalHost, daemon: Daemon) {
  const { stores, config } = place;
  const { devices, rules, ledger, vmms } = place.see(daemon);
  const phase = (name: string) => stores.vms.find(name)?.phase ?? 'none';
  const vms = join(config.paths.store, 'vms');
  return {
    ...{ web: phase('web'), twin: phase('twin'), vmms: vmms.sort() },
    ...{ devices: devices.length, rules: rules.length, strays: ledger.filter((kind) => kind.startsWith('nobody')) },
    directories: readdirSync(vms).length,
    memory: readdirSync(vms).filter((id) => existsSync(join(vms, id, 'suspended'))).length,
    unfinished: readdirSync(vms).filter((id) => existsSync(join(vms, id, 'suspended.new'))).length,
  };
}

const NOTHING_LEFT = { strays: [], memory: 0, unfinished: 0 };
const ALONE = {
  web: 'running',
  twin: 'none',
  vmms: ['Running'],
  devices: 1,
  rules: 1,
  directories: 1,
  ...NOTHING_LEFT,
};
const BOTH = {
  ...{ web: 'running', twin: 'running', vmms: ['Running', 'Running'], devices: 2, rules: 2, directories: 2 },
  ...NOTHING_LEFT,
};
const ASLEEP = { ...ALONE, web: 'suspended', vmms: [], devices: 0, rules: 0, memory: 1 };
const BESIDE_ASLEEP = { ...BOTH, web: 'suspended', vmms: ['Running'], devices: 1, rules: 1, memory: 1 };

describe('a fork', () => {
  it('is a machine of its own before anything of it is seen, and its source goes on', async () => {
    await using place = await runningVm();
    const seenAtWake: number[] = [];
    const guests: Guests = {
      woken: [],
      onWake: ({ mode }) => void (mode === 'new' && seenAtWake.push(place.see(daemon).rules.length)),
    };
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    const operation = await daemon.finish(() => daemon.life.fork('web', ['twin', 'third']));
    assert.equal(operation?.state, 'succeeded', operation?.error?.message ?? 'it died');
    const { forks, failed } = operation.result as VmForkResult;
    assert.deepEqual([forks.map(({ name }) => name), failed], [['twin', 'third'], []]);
    const records = ['web', 'twin', 'third'].map((name) => place.stores.vms.get(name));
    for (const field of ['id', 'name', 'address', 'mac', 'hostKeyPublic', 'hostKeyPrivate'] as const) {
      assert.equal(new Set(records.map((record) => record[field])).size, 3, field);
    }
    const [web, twin, third] = records;
    assert.deepEqual(twin?.forkedFrom, { id: web?.id, name: 'web' });
    assert.deepEqual([twin?.image, twin?.memoryMib, twin?.nat], [web?.image, web?.memoryMib, web?.nat]);
    assert.deepEqual(
      [twin, third].map((vm) => daemon.life.watches(vm?.id ?? '')),
      [true, true],
    );
    // the source, and each fork with what its record says
    const [same, ...others] = guests.woken;
    assert.equal(same?.mode, 'same');
    assert.deepEqual(
      others.map(({ mode, identity }) => [mode, identity?.hostname, identity?.address, identity?.mac]).sort(),
      [third, twin].map((vm) => ['new', vm?.name, vm?.address, vm?.mac]).sort(),
    );
    for (const field of ['machineId', 'bootId'] as const) {
      assert.equal(new Set(others.map(({ identity }) => identity?.[field])).size, 2, field);
    }
    assert.equal(new Set(guests.woken.map(({ seed }) => seed.toString('hex'))).size, 3);
    assert.equal(new Set(guests.woken.map(({ generation }) => generation)).size, 3);
    // when a fork has not acknowledged yet, rules let only those speak that have
    assert.deepEqual(seenAtWake[0], 1);
    assert.equal(place.see(daemon).rules.length, 3);
  });

  it('that does not acknowledge is gone, and its source goes on', async () => {
    await using place = await runningVm();
    const onWake = ({ mode }: WakeRequest) => {
      if (mode === 'new') throw new AgentError('refused', 'the kernel takes no seed');
    };
    const daemon = withAgents(place.daemon(), { woken: [], onWake });
    await daemon.recover();
    const operation = await daemon.finish(() => daemon.life.fork('web', ['twin']));
    assert.match(operation?.error?.message ?? '', /twin was not woken: the kernel takes no seed/);
    assert.deepEqual(look(place, daemon), ALONE);
  });

  it('needs a guest that can be given another identity, and names that are free', async () => {
    await using place = await runningVm();
    const daemon = place.daemon();
    await daemon.recover();
    const fail = async (names: string[]) => (await daemon.finish(() => daemon.life.fork('web', names)))?.error;
    assert.match((await fail(['twin']))?.message ?? '', /web has no agent that answers/);
    withAgents(daemon, { woken: [] });
    assert.match((await fail(['web']))?.message ?? '', /"web" exists already/);
    assert.match((await fail(['a', 'a']))?.message ?? '', /"a" is there twice/);
    assert.deepEqual(look(place, daemon), ALONE);
  });

  for (const [what, suspended, before, after] of [
    ['a VM that runs', false, ALONE, BOTH],
    ['one that is suspended', true, ASLEEP, BESIDE_ASLEEP],
  ] as const) {
    it(`of ${what} whose daemon dies is there or is not, and its source is as it was`, async (t) => {
      const fork = (daemon: Daemon) => daemon.finish(() => daemon.life.fork('web', ['twin']));
      const effects = await (async () => {
        await using place = await runningVm(suspended);
        const daemon = withAgents(place.daemon(), { woken: [] });
        await daemon.recover();
        const own = daemon.mortal.effects.length;
        await fork(daemon);
        assert.deepEqual(look(place, daemon), after, 'when nobody dies');
        return daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
      })();
      const wrong: object[] = [];
      for (const dieBefore of effects) {
        await using place = await runningVm(suspended);
        const daemon = withAgents(place.daemon(dieBefore), { woken: [] });
        await daemon.recover();
        await fork(daemon);
        const next = withAgents(place.daemon(), { woken: [] });
        await next.recover();
        const seen = look(place, next);
        if (![before, after].some((allowed) => isDeepStrictEqual(allowed, seen))) wrong.push({ dieBefore, seen });
      }
      t.diagnostic(`${effects.length} deaths`);
      assert.deepEqual(wrong, []);
    });
  }
});
