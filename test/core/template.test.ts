import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Fit } from '../../src/core/fit.ts';
import { beyondLimits, chooseTemplate, type TemplateRecord, type Wanted, whyNot } from '../../src/core/template.ts';

const mark = (path: string) => ({ path, size: 1, modifiedAt: '2026-01-01T00:00:00.000Z' });

const FIT: Fit = {
  ...{ vmm: 'fcqemu', acceleration: 'tcg', program: '7.2.0', processor: null, hostKernel: null, tscMhz: 2000 },
  ...{ kernel: mark('/vmlinux'), initrd: mark('/initrd'), vcpus: 1, memoryMib: 1024 },
};

const SHAPE = {
  ...{ imageId: null, rootfs: mark('/b/rootfs.ext4'), bootArgs: 'quiet', vcpus: 1, memoryMib: 1024 },
  ...{ workMount: '/root' as string | null, nat: true },
};

const WANTED: Wanted = { shape: SHAPE, rootDiskBytes: 8000, workDiskBytes: 8000, fit: FIT };

function template(id: string, changes: Partial<TemplateRecord> = {}): TemplateRecord {
  return {
    ...{ id, image: 'debian', shape: SHAPE, rootDiskBytes: 8000, workDiskBytes: 8000, fit: FIT, vmmVersion: '1' },
    ...{ files: [], failedUnits: [], bytes: 100, createdAt: '2026-01-01', usedAt: '2026-01-01' },
    ...changes,
  };
}

describe('a template for a VM', () => {
  it('is the one with the largest disks that are not larger than asked for', () => {
    const small = template('a', { rootDiskBytes: 2000 });
    const middle = template('b', { rootDiskBytes: 4000 });
    const large = template('c', { rootDiskBytes: 9000 });
    assert.equal(chooseTemplate([small, middle, large], WANTED).template, middle);
    assert.equal(chooseTemplate([small, middle, large], { ...WANTED, rootDiskBytes: 9000 }).template, large);
    assert.deepEqual(chooseTemplate([large], WANTED), {
      template: undefined,
      why: ['its root disk is larger than what is asked for'],
    });
  });

  it('is of the same image; of those of others nothing is said', () => {
    const other = template('a', { shape: { ...SHAPE, rootfs: mark('/other/rootfs.ext4') } });
    const ofImage = template('b', { shape: { ...SHAPE, imageId: '0a1b2c3d' } });
    assert.deepEqual(chooseTemplate([other, ofImage], WANTED), { template: undefined, why: [] });
    const image = { ...WANTED, shape: { ...SHAPE, imageId: '0a1b2c3d', rootfs: mark('/b/rootfs.ext4') } };
    assert.equal(chooseTemplate([other, ofImage], image).template, ofImage);
  });

  it('says what differs, of the one that comes nearest', () => {
    const without = (change: Partial<typeof SHAPE>) => ({ ...WANTED, shape: { ...SHAPE, ...change } });
    const why = (wanted: Wanted, changes: Partial<TemplateRecord> = {}) => whyNot(template('a', changes), wanted);
    assert.deepEqual(why(WANTED), []);
    assert.deepEqual(why(without({ workMount: null })), ['it has a work disk']);
    assert.deepEqual(why(WANTED, { shape: { ...SHAPE, workMount: null }, workDiskBytes: 0 }), ['it has no work disk']);
    assert.deepEqual(why(without({ workMount: '/srv' })), ['its work disk is mounted at /root']);
    assert.deepEqual(why(without({ nat: false })), ['it booted with a way to the outside']);
    assert.deepEqual(why(without({ bootArgs: 'debug' })), ['the kernel command line was another']);
    assert.deepEqual(why(without({ rootfs: { ...SHAPE.rootfs, size: 2 } })), [
      'the root file system /b/rootfs.ext4 was replaced',
    ]);
    assert.deepEqual(why({ ...WANTED, fit: { ...FIT, program: '8.0.0' } }), ['it ran on QEMU 7.2.0, now QEMU 8.0.0']);
    const far = template('a', { shape: { ...SHAPE, nat: false, bootArgs: '' } });
    const near = template('b', { shape: { ...SHAPE, nat: false } });
    assert.deepEqual(chooseTemplate([far, near], WANTED).why, ['it booted without a way to the outside']);
  });
});

describe('limits of templates', () => {
  const [old, newer, newest] = [1, 2, 3].map((day) => template(`t${day}`, { usedAt: `2026-01-0${day}` }));
  const all = [newest, old, newer].flatMap((each) => each ?? []);
  const gone = (count: number, bytes: number, kept?: string) =>
    beyondLimits(all, { count, bytes }, kept).map(({ id }) => id);

  it('let the longest unused go first', () => {
    assert.deepEqual(gone(3, 300), []);
    assert.deepEqual(gone(2, 300), ['t1']);
    assert.deepEqual(gone(3, 250), ['t1']);
    assert.deepEqual(gone(0, 300), ['t3', 't2', 't1']);
  });

  it('spare the one that was just made', () => {
    assert.deepEqual(gone(1, 300, 't1'), ['t3', 't2']);
    assert.deepEqual(gone(3, 50, 't1'), ['t3', 't2']);
  });
});
