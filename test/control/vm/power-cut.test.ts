/**
 * A power cut takes what was not synced. Whatever the records say at any moment of all that is done with memory is on the medium by
 * then: no VM is suspended with bytes that may be lost, and none goes on from memory that the next daemon would use again.
 */
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { memoryFiles, memoryFilesIn, snapshotFiles, templateFiles, vmFiles } from '../../../src/storage/layout.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { withAgents } from '../../support/warm-host.ts';
import { WARM_WORKS } from '../../support/warm-works.ts';

/** A file that a record speaks of. */
interface Believed {
  path: string;
  /** what the record says */
  of: string;
  /** whether what its guest wrote has to be there */
  whole: boolean;
  /** whether it may have the name of before */
  moves?: boolean;
}

function believed({ config, stores }: MortalHost): Believed[] {
  const { store } = config.paths;
  const vms = stores.vms.list().flatMap((vm): Believed[] => {
    const files = vmFiles(store, vm.id);
    // a restore that was begun is finished first
    const moves = stores.ledger.of(vm.id).some((entry) => entry.kind === 'restore' && entry.step === 'swapping');
    const there = (path: string, otherwise: string) => (moves && existsSync(path) ? path : otherwise);
    const disks = [there(files.restoredRootDisk, files.rootDisk), there(files.restoredWorkDisk, files.workDisk)];
    const memory =
      there(files.restoredMemory, '') === '' ? memoryFiles(store, vm.id) : memoryFilesIn(files.restoredMemory);
    const sleeps = vm.memory !== null && vm.memory.spentOn === null;
    const keepsDisks = sleeps || moves || (vm.forkedFrom !== null && vm.phase === 'running');
    const paths = [
      ...(keepsDisks ? disks : []),
      ...(sleeps ? [memory.memory, memory.state, memory.manifest, files.seedDrive] : []),
    ];
    return paths.map((path) => ({ path, of: `${vm.name}, ${vm.phase}`, whole: sleeps || moves, moves }));
  });
  const snapshots = stores.snapshots.list().flatMap(({ id, vmId, name, automatic, memory }) => {
    const files = snapshotFiles(store, vmId, id);
    const paths = [files.rootDisk, files.workDisk, files.manifest, ...(memory ? [files.memory, files.state] : [])];
    // of one that was at rest: its guest had synced them when it went down
    return paths.map((path) => ({ path, of: `the snapshot ${automatic ? 'before' : name}`, whole: !automatic }));
  });
  const templates = stores.templates.list().flatMap(({ id }) => {
    const { memory, state, rootDisk } = templateFiles(store, id);
    return [memory, state, rootDisk].map((path) => ({ path, of: 'the template', whole: true }));
  });
  return [...vms, ...snapshots, ...templates];
}

/** What a power cut at this moment would make wrong. */
function broken(place: MortalHost, daemon: Daemon): string[] {
  const { medium, stores, config } = place;
  const lost = believed(place).flatMap(({ path, of, whole, moves }) => {
    const why = medium.losesBytes(path, whole) ?? (moves ? undefined : medium.losesName(path));
    return why === undefined ? [] : [`${of}: ${path.replace(config.paths.store, '')}: ${why}`];
  });
  const [only, ...others] = stores.vms.list();
  const isUnused = others.length === 0 && only?.memory?.spentOn === null;
  const runs = isUnused && place.see(daemon).vmms.includes('Running');
  return [...lost, ...(runs ? ['its guest goes on from memory that the next daemon would use'] : [])];
}

describe('a power cut', () => {
  for (const { name, prepare, begin } of WARM_WORKS) {
    it(`at any moment of ${name} finds on the medium what the records say`, async (t) => {
      await using place = await prepare();
      const wrong = new Set<string>();
      let moments = 0;
      let looks = false;
      const onEffect = (what: string) => {
        if (!looks || !place.settled()) return;
        moments += 1;
        for (const each of broken(place, daemon)) wrong.add(`before ${what}: ${each}`);
      };
      const daemon: Daemon = withAgents(place.daemon({ onEffect }));
      await daemon.recover();
      looks = true;
      const ended = await daemon.finish(() => begin(daemon));
      assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
      for (const each of broken(place, daemon)) wrong.add(`in the end: ${each}`);
      t.diagnostic(`${moments} moments`);
      assert.deepEqual([...wrong], []);
      assert.ok(moments > 5);
    });
  }
});
