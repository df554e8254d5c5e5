/** Where a daemon may die in the middle of a rebase, and what the next one makes of it. */
import assert from 'node:assert/strict';
import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { type RebaseEntry, recoverRebase } from '../../../src/control/vm/rebase.ts';
import type { VmPhase } from '../../../src/core/vm.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { lacking } from '../../bundle/sample-bundle.ts';
import { sampleVm } from '../../support/sample-vm.ts';
import { type ImagePlace, imagePlace } from '../images/image-host.ts';

const OLD = { image: 'debian-bookworm', imageId: null, rootDiskBytes: 100 };
const NEW = { image: 'dev', imageId: '0badc0de', rootDiskBytes: 200 };

interface Crash {
  /** the dead daemon's disks by file name, each with `old` or `new` in it */
  disks: Record<string, string>;
  /** which the record spoke of */
  record: typeof OLD | typeof NEW;
  phase: VmPhase;
  step: RebaseEntry['step'];
  ran: boolean;
}

interface Recovered {
  place: ImagePlace;
  root: string;
  files: string[];
  startAgain: boolean;
}

async function recover(t: TestContext, { disks, record, phase, step, ran }: Crash): Promise<Recovered> {
  const place = await imagePlace(t);
  const vm = sampleVm({ ...record, phase: phase === 'running' ? 'running' : 'stopped' });
  const { directory, rootDisk } = vmFiles(place.host.config.paths.store, vm.id);
  await mkdir(directory, { recursive: true });
  for (const [name, content] of Object.entries(disks)) await writeFile(join(directory, name), content);
  place.host.stores.vms.insert(vm);
  place.host.stores.ledger.record(vm.id, {
    kind: 'rebase',
    name: rootDisk,
    step,
    before: OLD,
    imageId: NEW.imageId,
    ran,
  });
  const startAgain = await recoverRebase(place.host, vm, phase);
  assert.deepEqual(place.host.stores.ledger.all(), [], 'nothing is left to be done');
  // a second time changes nothing
  assert.equal(await recoverRebase(place.host, vm, phase), false);
  return { place, root: await readFile(rootDisk, 'utf8'), files: (await readdir(directory)).sort(), startAgain };
}

describe('a rebase that was cut off', { skip: lacking('mke2fs') }, () => {
  for (const [when, crash] of [
    ['before anything happened', { disks: { 'root.ext4': 'old' }, record: OLD }],
    ['while the new disk was cloned', { disks: { 'root.ext4': 'old', 'root.next.ext4.part': 'new' }, record: OLD }],
    ['after the clone', { disks: { 'root.ext4': 'old', 'root.next.ext4': 'new' }, record: OLD }],
    ['between the two renames', { disks: { 'root.last.ext4': 'old', 'root.next.ext4': 'new' }, record: OLD }],
    ['after both renames', { disks: { 'root.last.ext4': 'old', 'root.ext4': 'new' }, record: OLD }],
    ['while the new disk booted', { disks: { 'root.last.ext4': 'old', 'root.ext4': 'new' }, record: NEW }],
    ['in the middle of its undoing', { disks: { 'root.ext4': 'old' }, record: NEW }],
  ] as const) {
    for (const ran of [false, true]) {
      it(`${when} ends with the old disk${ran ? ', and what ran is started again' : ''}`, async (t) => {
        const after = await recover(t, { ...crash, phase: 'starting', step: 'swapping', ran });
        assert.deepEqual([after.root, after.files, after.startAgain], ['old', ['root.ext4'], ran]);
        const { image, imageId, rootDiskBytes, phase } = after.place.host.stores.vms.get('web');
        assert.deepEqual({ image, imageId, rootDiskBytes, phase }, { ...OLD, phase: 'stopped' });
      });
    }
  }

  for (const [when, crash] of [
    ['after SSH had come up', { step: 'swapping', phase: 'running', last: true }],
    ['before the old disk was removed', { step: 'settled', phase: 'stopped', last: true }],
    ['after it was', { step: 'settled', phase: 'running', last: false }],
  ] as const) {
    it(`${when} ends with the new disk`, async (t) => {
      const disks = { 'root.ext4': 'new', ...(crash.last ? { 'root.last.ext4': 'old' } : {}) };
      const { step, phase } = crash;
      const after = await recover(t, { disks, record: NEW, step, phase, ran: true });
      assert.deepEqual([after.root, after.files, after.startAgain], ['new', ['root.ext4'], false]);
      assert.equal(after.place.host.stores.vms.get('web').imageId, NEW.imageId);
    });
  }

  it('before the VM was stopped leaves it as it runs', async (t) => {
    const crash = {
      disks: { 'root.ext4': 'old' },
      record: OLD,
      step: 'swapping',
      phase: 'running',
      ran: true,
    } as const;
    const after = await recover(t, crash);
    assert.deepEqual([after.root, after.startAgain], ['old', false]);
    assert.deepEqual(
      [after.place.host.stores.vms.get('web').phase, after.place.host.stores.vms.get('web').image],
      ['running', OLD.image],
    );
  });

  it('while the undone VM was started again has only that left to do', async (t) => {
    const undone = { disks: { 'root.ext4': 'old' }, record: OLD, step: 'undone', ran: true } as const;
    assert.equal((await recover(t, { ...undone, phase: 'starting' })).startAgain, true);
    assert.equal((await recover(t, { ...undone, phase: 'running' })).startAgain, false);
  });
});
