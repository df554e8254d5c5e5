import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { type Fit, misfits } from '../../src/core/fit.ts';

const KERNEL = { path: '/b/vmlinux', size: 50_000_000, modifiedAt: '2026-11-29T10:00:00.000Z' };
const INITRD = { path: '/b/initrd.img', size: 4_000_000, modifiedAt: '2026-11-29T10:00:00.000Z' };

const EMULATED: Fit = {
  ...{ vmm: 'fcqemu', acceleration: 'tcg', program: '7.2.22', processor: null, hostKernel: null, tscMhz: 2100 },
  ...{ kernel: KERNEL, initrd: INITRD, vcpus: 1, memoryMib: 256 },
};
const UNDER_KVM: Fit = {
  ...EMULATED,
  ...{ vmm: 'firecracker', acceleration: 'kvm', program: '1.16.1', processor: 'A (features 1)', hostKernel: '6.1.0' },
  tscMhz: null,
};

const table: [what: string, then: Fit, change: Partial<Fit>, expected: RegExp][] = [
  ['another VMM', UNDER_KVM, { vmm: 'fcqemu', program: '7.2.22' }, /it ran on Firecracker 1\.16\.1, now QEMU 7\.2\.22/],
  [
    'another version of it',
    UNDER_KVM,
    { program: '1.17.0' },
    /it ran on Firecracker 1\.16\.1, now Firecracker 1\.17\.0/,
  ],
  ['another QEMU', EMULATED, { program: '10.0.0' }, /it ran on QEMU 7\.2\.22, now QEMU 10\.0\.0/],
  [
    'KVM that works by now',
    EMULATED,
    { acceleration: 'kvm', processor: 'A' },
    /it was emulated, and would be run by KVM/,
  ],
  ['another processor', UNDER_KVM, { processor: 'B' }, /the processor was A \(features 1\), now B/],
  ['another kernel of the host', UNDER_KVM, { hostKernel: '6.12.0' }, /the host's kernel was 6\.1\.0, now 6\.12\.0/],
  ['a clock of another rate', EMULATED, { tscMhz: 2900 }, /clock ran at 2100 MHz, now at 2900 MHz/],
  ['another kernel', EMULATED, { kernel: { ...KERNEL, size: 1 } }, /its kernel \/b\/vmlinux was replaced/],
  ['another initrd', EMULATED, { initrd: { ...INITRD, modifiedAt: '' } }, /its initrd \/b\/initrd\.img was replaced/],
  ['no initrd any more', EMULATED, { initrd: null }, /its initrd \/b\/initrd\.img was replaced/],
  ['other processors', EMULATED, { vcpus: 2 }, /it had 1 processors, and would have 2/],
  ['other memory', EMULATED, { memoryMib: 512 }, /it had 256 MiB of memory, and would have 512 MiB/],
];

describe('saved memory', () => {
  for (const [what, then, change, expected] of table) {
    it(`does not fit ${what}, and says so`, () => {
      assert.match(misfits(then, { ...then, ...change }).join('; '), expected);
    });
  }

  it('fits the same again, wherever the kernel lies, and after its clock was measured anew', () => {
    for (const fit of [EMULATED, UNDER_KVM]) assert.deepEqual(misfits(fit, { ...fit }), []);
    assert.deepEqual(misfits(EMULATED, { ...EMULATED, kernel: { ...KERNEL, path: '/c/vmlinux' } }), []);
    assert.deepEqual(misfits(EMULATED, { ...EMULATED, tscMhz: 2100.4 }), []);
  });

  it('of an emulated guest fits after an update of the host’s kernel', () => {
    assert.deepEqual(misfits(EMULATED, { ...EMULATED, hostKernel: null }), []);
  });
});
