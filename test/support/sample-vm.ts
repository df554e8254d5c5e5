/** A VM record with everything filled in. */
import type { VmRecord } from '../../src/core/vm.ts';

export function sampleVm(changes: Partial<VmRecord> = {}): VmRecord {
  return {
    id: '5f3a9c01',
    name: 'web',
    image: 'debian-bookworm',
    imageId: null,
    vcpus: 2,
    memoryMib: 512,
    rootDiskBytes: 8 * 2 ** 30,
    workDiskBytes: 8 * 2 ** 30,
    address: '172.30.0.2',
    mac: '06:00:ac:1e:00:02',
    nat: true,
    autostart: false,
    restartPolicy: 'never',
    workDiskMount: '/root',
    hostKeyPrivate: 'private',
    hostKeyPublic: 'ssh-ed25519 AAAA',
    createdAt: '2026-11-23T00:00:00.000Z',
    phase: 'stopped',
    failure: null,
    startedAt: null,
    vmm: null,
    bootTimeline: [],
    bootMs: null,
    run: null,
    restarts: null,
    ...changes,
  };
}
