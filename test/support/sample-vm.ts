/** A VM record with everything filled in. */
import { newVm } from '../../src/core/new-vm.ts';
import type { VmRecord } from '../../src/core/vm.ts';

export function sampleVm(changes: Partial<VmRecord> = {}): VmRecord {
  const vm = newVm({
    id: '5f3a9c01',
    name: 'web',
    image: 'debian-bookworm',
    vcpus: 2,
    memoryMib: 512,
    rootDiskBytes: 8 * 2 ** 30,
    workDiskBytes: 8 * 2 ** 30,
    workDiskMount: '/root',
    address: '172.30.0.2',
    hostKeyPrivate: 'private',
    hostKeyPublic: 'ssh-ed25519 AAAA',
    createdAt: new Date('2026-11-23T00:00:00.000Z'),
  });
  return { ...vm, phase: 'stopped', ...changes };
}
