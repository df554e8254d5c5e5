/**
 * Every place where a daemon can die in the life of a VM, and what the next one makes of it. For each action, a daemon
 * dies before each of its effects in turn; the next one must find its way to one of few states, with nothing left over,
 * and a third must find nothing to do.
 */
import assert from 'node:assert/strict';
import { appendFileSync, copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { after, describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { disksOf } from '../../../src/control/memory/checkpoint.ts';
import { identitiesOf, identityOf, writeManifest } from '../../../src/control/memory/manifest.ts';
import { pauseVm } from '../../../src/control/vm/pause.ts';
import { createTemporaryVms } from '../../../src/control/vm/temporary.ts';
import type { Fit } from '../../../src/core/fit.ts';
import type { VmPhase } from '../../../src/core/vm.ts';
import { becameReady } from '../../../src/core/vm-changes.ts';
import { imageFiles, memoryFiles, vmFiles } from '../../../src/storage/layout.ts';
import { readBootId } from '../../../src/system/processes.ts';
import { DISK_BYTES, NEW, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import type { Seen } from '../../support/mortal-sight.ts';

/** A VM at rest. */
const STOPPED: Seen = {
  ...{ vm: 'stopped', images: 'old on old', vmms: [], watched: false },
  ...{ devices: [], routes: [], rules: [], ledger: ['directory'], odd: [] },
};

const RUNNING: Seen = {
  ...STOPPED,
  ...{ vm: 'running', vmms: ['Running'], watched: true, devices: ['tap'], routes: ['refused', 'tap'], rules: ['tap'] },
  ledger: ['directory', 'pool-route', 'tap', 'vmm'],
};

/** With its memory beside its disks. */
const SUSPENDED: Seen = { ...STOPPED, vm: 'suspended', odd: ['suspended'] };
const FAILED: Seen = { ...STOPPED, vm: 'failed' };
const TRASHED: Seen = { ...STOPPED, vm: 'trash' };
const GONE: Seen = { ...STOPPED, vm: 'none', images: '', ledger: [] };
const onNew = (seen: Seen): Seen => ({ ...seen, images: 'new on new' });

type Given = 'no VM' | 'stopped' | 'running' | 'suspended' | 'paused';

const PAUSED: Seen = { ...RUNNING, vm: 'paused', vmms: ['Paused'] };
const WHY = { at: '2026-11-29T00:00:00.000Z', why: 'no room', until: 'when there is' };

interface Action {
  name: string;
  given: Given;
  act(daemon: Daemon): Operation | Promise<Operation>;
  /** as it is when nobody dies */
  end: Seen;
  /** and after a death, besides that */
  others: readonly Seen[];
  /** whether a death leaves nothing but the others */
  endsWithDaemon?: boolean;
}

const { image, ...shape } = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };
const deletion = { force: true, now: true, keepWorkDisk: false };

const ACTIONS: readonly Action[] = [
  {
    name: 'run of a VM that is not there',
    given: 'no VM',
    act: ({ life }) => life.run('web', { image, ...shape }),
    end: RUNNING,
    others: [GONE, STOPPED],
  },
  {
    name: 'run of a temporary VM',
    given: 'no VM',
    act: ({ host, life }) => {
      const { id: lease } = host.stores.leases.grant(null, () => false);
      return life.run('web', { image, ...shape, lease });
    },
    end: RUNNING,
    others: [GONE],
    endsWithDaemon: true,
  },
  {
    name: 'end of a lease',
    given: 'no VM',
    act: async ({ host, life }) => {
      const { id: lease } = host.stores.leases.grant(null, () => false);
      const run = life.run('web', { image, ...shape, lease });
      await host.operations.finished(run.id);
      await createTemporaryVms(host, life).end(lease);
      return run;
    },
    end: GONE,
    others: [],
  },
  { name: 'start', given: 'stopped', act: ({ life }) => life.start('web'), end: RUNNING, others: [STOPPED] },
  { name: 'stop', given: 'running', act: ({ life }) => life.stop('web'), end: STOPPED, others: [RUNNING] },
  { name: 'kill', given: 'running', act: ({ life }) => life.kill('web'), end: STOPPED, others: [RUNNING] },
  { name: 'restart', given: 'running', act: ({ life }) => life.restart('web'), end: RUNNING, others: [STOPPED] },
  {
    name: 'deletion into the trash',
    given: 'running',
    act: ({ life }) => life.delete('web', { ...deletion, now: false }),
    end: TRASHED,
    others: [RUNNING, STOPPED],
  },
  {
    name: 'deletion for good',
    given: 'stopped',
    act: ({ life }) => life.delete('web', deletion),
    end: GONE,
    others: [STOPPED],
  },
  {
    name: 'deletion that keeps the work disk',
    given: 'running',
    act: ({ life }) => life.delete('web', { ...deletion, keepWorkDisk: true }),
    end: GONE,
    others: [RUNNING, STOPPED],
  },
  {
    name: 'start of one that is paused',
    given: 'paused',
    act: ({ life }) => life.start('web'),
    end: RUNNING,
    others: [PAUSED],
  },
  {
    name: 'resume of one that is paused',
    given: 'paused',
    act: ({ life }) => life.resume('web'),
    end: RUNNING,
    others: [PAUSED],
  },
  {
    name: 'stop of one that is paused',
    given: 'paused',
    act: ({ life }) => life.stop('web'),
    end: STOPPED,
    others: [PAUSED],
  },
  {
    name: 'deletion of one that is paused',
    given: 'paused',
    act: ({ life }) => life.delete('web', { ...deletion, now: false }),
    end: TRASHED,
    others: [PAUSED, STOPPED],
  },
  {
    name: 'pause',
    given: 'running',
    act: ({ host }) =>
      host.operations.start({
        ...{ kind: 'test', target: 'another' },
        run: () => pauseVm(host, host.stores.vms.get('web'), WHY),
      }),
    end: PAUSED,
    others: [RUNNING],
  },
  {
    name: 'rebase of one that runs',
    given: 'running',
    act: ({ life }) => life.rebase('web', { image: NEW.name, force: true }),
    end: onNew(RUNNING),
    others: [RUNNING],
  },
  {
    name: 'rebase without a start',
    given: 'stopped',
    act: ({ life }) => life.rebase('web', { image: NEW.name, start: false }),
    end: onNew(STOPPED),
    others: [STOPPED],
  },
  { name: 'suspend', given: 'running', act: ({ life }) => life.suspend('web'), end: SUSPENDED, others: [RUNNING] },
  { name: 'resume', given: 'suspended', act: ({ life }) => life.resume('web'), end: RUNNING, others: [SUSPENDED] },
  {
    name: 'start that gives memory up',
    given: 'suspended',
    act: ({ life }) => life.start('web', { discardMemory: true }),
    end: RUNNING,
    others: [SUSPENDED, STOPPED],
  },
  {
    name: 'stop that gives memory up',
    given: 'suspended',
    act: ({ life }) => life.stop('web', { discardMemory: true }),
    end: STOPPED,
    others: [SUSPENDED],
  },
  {
    name: 'deletion of one that is suspended into the trash',
    given: 'suspended',
    act: ({ life }) => life.delete('web', { ...deletion, now: false }),
    end: { ...TRASHED, odd: ['suspended'] },
    others: [SUSPENDED],
  },
  {
    name: 'deletion of one that is suspended for good',
    given: 'suspended',
    act: ({ life }) => life.delete('web', deletion),
    end: GONE,
    others: [SUSPENDED],
  },
];

/** A host as an earlier daemon, which is gone, left it in good order. */
async function prepare(given: Given): Promise<MortalHost> {
  const place = await mortalHost();
  if (given === 'no VM') return place;
  const { stores, config, vm } = place;
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
  stores.vms.insert(vm);
  if (given === 'running' || given === 'suspended' || given === 'paused') {
    const daemon = place.daemon();
    const started = await daemon.finish(() => daemon.life.start('web', { until: 'reachable' }));
    assert.equal(started?.state, 'succeeded', started?.error?.message ?? 'it died');
    if (given === 'paused') await daemon.mortal.run(() => pauseVm(daemon.host, vm, WHY));
    await daemon.drop();
    stores.vms.update(vm.id, becameReady(stores.vms.get('web'), { at: new Date(), failedUnits: [] }));
  }
  if (given === 'suspended') {
    const daemon = place.daemon();
    await daemon.recover();
    const suspended = await daemon.finish(() => daemon.life.suspend('web'));
    assert.equal(suspended?.state, 'succeeded', suspended?.error?.message ?? 'it died');
    await daemon.drop();
  }
  return place;
}

/** What a daemon can find of a VM that had run. */
const SIGHTS: Record<string, (place: MortalHost) => void | Promise<void>> = {
  'its VMM running': () => {},
  'its VMM without a guest': ({ vmms: [vmm] }) => void Object.assign(vmm ?? {}, { state: 'Not started' }),
  'its VMM unreachable': ({ vmms: [vmm] }) => vmm?.hide(),
  'its VMM ended by a reset of the guest': ({ vmms: [vmm] }) => vmm?.reset(),
  'its VMM gone': ({ vmms: [vmm] }) => vmm?.die(),
  'the host restarted': async ({ stores, vm, vmms: [vmm] }) => {
    await vmm?.die();
    for (const resource of stores.ledger.of(vm.id)) {
      if (resource.kind !== 'vmm' || !resource.identity) continue;
      stores.ledger.record(vm.id, { ...resource, identity: { ...resource.identity, bootId: 'another' } });
    }
  },
};

/** What a guest may have done before the daemon died that let it go on. */
type Going =
  | 'it had not gone on'
  | 'its guest had written nothing'
  | 'its guest had written'
  | 'at an earlier boot of the host';

/** As a dead daemon left its record, and its host. */
async function found(phase: VmPhase, sight: string, going: Going = 'it had not gone on'): Promise<MortalHost> {
  const place = await prepare('running');
  await SIGHTS[sight]?.(place);
  place.stores.vms.update(place.vm.id, { phase, failure: phase === 'failed' ? 'why' : null });
  if (phase === 'suspended' || phase === 'resuming') await leaveMemory(place, going);
  return place;
}

/** Memory of a VM that was suspended, and what was made of it since. */
async function leaveMemory({ config, stores, vm }: MortalHost, going: Going): Promise<void> {
  const files = memoryFiles(config.paths.store, vm.id);
  mkdirSync(files.directory);
  for (const path of [files.memory, files.state]) writeFileSync(path, 'saved');
  const record = stores.vms.get('web');
  const [id, at] = ['11111111-2222-3333-4444-555555555555', new Date().toISOString()];
  await writeManifest(files, {
    ...{ format: 1, id, at, address: vm.address, waker: 'ssh', vmmVersion: '1' },
    fit: FIT,
    disks: await identitiesOf(disksOf({ config }, record)),
    memory: await identityOf(files.memory),
    state: await identityOf(files.state),
  });
  const boot = going === 'at an earlier boot of the host' ? 'another' : await readBootId();
  const spentOn = going === 'it had not gone on' ? null : boot;
  stores.vms.update(vm.id, { memory: { id, at, bytes: 10, spentOn } });
  if (going === 'its guest had written') appendFileSync(vmFiles(config.paths.store, vm.id).rootDisk, 'x');
}

const FILE = { path: '/boot/vmlinux', size: 1, modifiedAt: '2026-11-29T00:00:00.000Z' };
const FIT: Fit = {
  ...{ vmm: 'fcqemu', acceleration: 'tcg', program: '7.2.22', processor: null, hostKernel: null, tscMhz: 2000 },
  ...{ kernel: FILE, initrd: null, vcpus: 2, memoryMib: 512 },
};

/** What becomes of that. */
function expected(phase: VmPhase, sight: string): Seen {
  if (phase === 'creating') return GONE;
  if (phase === 'failed') return FAILED;
  if (phase === 'suspended' || phase === 'resuming') return SUSPENDED;
  if (phase === 'suspending' && sight === 'its VMM ended by a reset of the guest') return FAILED;
  if (!['running', 'suspending'].includes(phase) || sight === 'the host restarted') return STOPPED;
  // a guest that had reset is started again
  return ['its VMM running', 'its VMM ended by a reset of the guest'].includes(sight) ? RUNNING : FAILED;
}

const PHASES: readonly VmPhase[] = [
  ...([
    'creating',
    'stopped',
    'starting',
    'running',
    'stopping',
    'suspending',
    'suspended',
    'resuming',
    'failed',
  ] as const),
];

/** What becomes of one that was let go on from its memory by a daemon that died then. */
const GOING: [going: Going, sight: string, Seen][] = [
  ['its guest had written nothing', 'its VMM running', RUNNING],
  ['its guest had written nothing', 'its VMM gone', SUSPENDED],
  ['its guest had written nothing', 'its VMM unreachable', SUSPENDED],
  ['its guest had written', 'its VMM running', RUNNING],
  ['its guest had written', 'its VMM gone', FAILED],
  ['its guest had written', 'the host restarted', STOPPED],
  // a power cut may keep what was written and lose when: the times of the disks prove nothing
  ['at an earlier boot of the host', 'the host restarted', STOPPED],
];

/** What a daemon, and then another one, make of a host whose daemon has died. */
async function aftermath(place: MortalHost): Promise<Seen> {
  const next = place.daemon();
  await next.recover();
  const found = place.see(next);
  await next.drop();
  const third = place.daemon();
  await third.recover();
  assert.deepEqual(place.see(third), found, 'a second recovery changes something');
  return found;
}

/** Ways for a daemon to die: before each effect of what it does after its own recovery. */
async function deaths(make: () => Promise<MortalHost>, act: (daemon: Daemon) => Promise<unknown>, end?: Seen) {
  await using place = await make();
  const daemon = place.daemon();
  if (end) await daemon.recover();
  const own = daemon.mortal.effects.length;
  await act(daemon);
  if (end) assert.deepEqual(place.see(daemon), end, 'when nobody dies');
  const effects = daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
  return effects;
}

let crashes = 0;
const began = performance.now();

describe('a daemon that dies', () => {
  for (const { name, given, act, end, others, endsWithDaemon } of ACTIONS) {
    const allowed = endsWithDaemon ? others : [end, ...others];
    it(`in the middle of a ${name} leaves one of ${allowed.length} states`, async (t) => {
      const doIt = (daemon: Daemon) => daemon.finish(() => act(daemon));
      const effects = await deaths(() => prepare(given), doIt, end);
      const wrong: object[] = [];
      const reached = new Map<string, number>();
      for (const dieBefore of effects) {
        await using place = await prepare(given);
        const daemon = place.daemon(dieBefore);
        await daemon.recover();
        await doIt(daemon);
        const seen = await aftermath(place).catch((error) => error as object);
        const index = allowed.findIndex((one) => JSON.stringify(one) === JSON.stringify(seen));
        if (index < 0) wrong.push({ dieBefore, seen });
        const state = `${index}`;
        reached.set(state, (reached.get(state) ?? 0) + 1);
        crashes += 1;
      }
      t.diagnostic(`${name}: ${effects.length} deaths`);
      assert.deepEqual(wrong, []);
    });
  }

  for (const phase of PHASES) {
    it(`and left a VM ${phase}: the next one makes of it what is seen`, async () => {
      for (const sight of Object.keys(SIGHTS)) {
        await using place = await found(phase, sight);
        assert.deepEqual(await aftermath(place), expected(phase, sight), sight);
      }
    });

    it(`in the middle of the recovery of a VM ${phase} changes nothing about its end`, async (t) => {
      const wrong: object[] = [];
      let count = 0;
      // of others than one that runs, it is of no matter how its VMM ended
      const sights = phase === 'running' ? Object.keys(SIGHTS) : ['its VMM running', 'its VMM gone'];
      for (const sight of sights) {
        const end = expected(phase, sight);
        // one that was being started again is stopped, as any whose start was cut off
        const ends = sight === 'its VMM ended by a reset of the guest' && end === RUNNING ? [end, STOPPED] : [end];
        for (const dieBefore of await deaths(
          () => found(phase, sight),
          (daemon) => daemon.recover(),
        )) {
          await using place = await found(phase, sight);
          await place.daemon(dieBefore).recover();
          const seen = await aftermath(place).catch((error) => error as object);
          if (!ends.some((allowed) => JSON.stringify(allowed) === JSON.stringify(seen)))
            wrong.push({ sight, dieBefore, seen });
          count += 1;
        }
      }
      crashes += count;
      t.diagnostic(`recovery of a VM ${phase}: ${count} deaths`);
      assert.deepEqual(wrong, []);
    });
  }

  for (const [going, sight, end] of GOING) {
    it(`just after it let a VM go on, when ${going}, with ${sight}: never is memory older than its disk used`, async () => {
      await using place = await found('resuming', sight, going);
      assert.deepEqual(await aftermath(place), end);
    });
  }

  after(() => process.stdout.write(`# ${crashes} deaths in ${Math.round((performance.now() - began) / 100) / 10} s\n`));
});
