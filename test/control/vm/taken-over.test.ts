/** What a VM that begins as another has of it: its record field by field, and what its guest is told at its next boot. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { processOf, writeOciRecord } from '../../../src/control/images/oci-record.ts';
import { copySnapshot } from '../../../src/control/snapshots/new-vm.ts';
import type { VmRecord } from '../../../src/core/vm.ts';
import { imageFiles, vmFiles } from '../../../src/storage/layout.ts';
import { OLD } from '../../support/mortal-disks.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { withAgents } from '../../support/waking-agents.ts';
import { runningVm, takeSnapshot } from '../../support/warm-works.ts';

/** Nothing of it is what a new VM has by itself. */
const SETTINGS: Partial<VmRecord> = {
  ...{ nat: false, restartPolicy: 'always', idleSuspendMs: 600_000, autostart: true },
  ...{ awakeUntil: '2030-01-01T00:00:00.000Z' },
  process: { cmd: ['serve'], env: ['GREETING=hello'], user: 'nobody' },
};

/** What each has of its own: who it is, and how it has fared. */
const OWN = new Set<keyof VmRecord>([
  ...(['id', 'name', 'address', 'mac', 'user', 'hostKeyPrivate', 'hostKeyPublic', 'machineId', 'createdAt'] as const),
  ...(['forkedFrom', 'phase', 'failure', 'startedAt', 'vmm', 'bootTimeline', 'bootMs', 'ready', 'run'] as const),
  ...(['restarts', 'lastEnd', 'temporary', 'memory', 'paused'] as const),
  // said of each VM by itself
  ...(['autostart', 'awakeUntil'] as const),
]);

const copy = ({ host, life }: Daemon, diskOnly: boolean): Operation =>
  host.operations.start({
    ...{ kind: 'snapshot.copy', target: 'twin' },
    run: async (progress, signal) => {
      const vm = await copySnapshot(host, 'web', 'first', { name: 'twin', diskOnly }, progress, signal);
      if (vm.phase === 'running') life.adopt(vm);
    },
  });

const WAYS: readonly [string, (daemon: Daemon) => Operation][] = [
  ['forked', ({ life }) => life.fork('web', ['twin'])],
  ['made of a snapshot with memory', (daemon) => copy(daemon, false)],
  ['made of the disks of a snapshot', (daemon) => copy(daemon, true)],
];

async function succeed(daemon: Daemon, begin: () => Operation): Promise<void> {
  const ended = await daemon.finish(begin);
  assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
}

/** A VM of an OCI image, with a snapshot, both with settings of their own. */
async function ociVm(): Promise<MortalHost> {
  const place = await runningVm((daemon) => {
    const { vms } = daemon.host.stores;
    vms.update(vms.get('web').id, SETTINGS);
    return takeSnapshot(daemon);
  });
  await writeOciRecord(imageFiles(place.config.paths.store, OLD.id).oci, {
    ...{ version: 1, reference: 'docker.io/library/old:latest', digest: '', manifest: '', platform: 'linux/amd64' },
    layers: [],
    process: processOf({
      ...{ architecture: 'amd64', os: 'linux', rootfs: { type: 'layers', diff_ids: [] } },
      config: { Cmd: ['idle'], Env: ['PATH=/bin'] },
    }),
  });
  return place;
}

/** What a VM's guest is told at its next boot. */
async function nextSeed({ config, stores }: MortalHost, daemon: Daemon, name: string): Promise<string> {
  if (stores.vms.get(name).phase !== 'stopped') await succeed(daemon, () => daemon.life.stop(name));
  await succeed(daemon, () => daemon.life.start(name, { until: 'reachable' }));
  return readFileSync(vmFiles(config.paths.store, stores.vms.get(name).id).seedDrive, 'latin1');
}

describe('a VM that begins as another', () => {
  for (const [how, begin] of WAYS) {
    it(`has what the other was asked to be when it is ${how}`, async () => {
      await using place = await ociVm();
      const daemon = withAgents(place.daemon(), { woken: [] });
      await daemon.recover();
      await succeed(daemon, () => begin(daemon));
      const [web, twin] = [place.stores.vms.get('web'), place.stores.vms.get('twin')];
      for (const field of Object.keys(web) as (keyof VmRecord)[]) {
        if (!OWN.has(field)) assert.deepEqual(twin[field], web[field], field);
      }
      assert.deepEqual([twin.autostart, twin.awakeUntil], [false, null]);
      const seed = await nextSeed(place, daemon, 'twin');
      assert.match(seed, /export GREETING='hello'/);
      assert.ok(seed.includes('arg=serve\0') && seed.includes('user=nobody\0') && !seed.includes('arg=idle\0'));
    });
  }

  it('has it of its VM where an earlier banger took the snapshot', async () => {
    await using place = await ociVm();
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const [first] = place.stores.snapshots.list(place.vm.id);
    assert.ok(first);
    const { process: _, ...values } = first.values;
    place.stores.snapshots.update({ ...first, values });
    await succeed(daemon, () => copy(daemon, true));
    assert.deepEqual(place.stores.vms.get('twin').process, SETTINGS.process);
  });
});
