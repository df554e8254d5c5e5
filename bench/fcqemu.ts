/**
 * How long fcqemu and a Linux guest in it take, and what they weigh. Needs a bundle directory in
 * BANGER_TEST_BUNDLE. Usage: node bench/fcqemu.ts [runs]
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { prepared, said, start } from '../test/fcqemu/support/linux-guest.ts';
import { bundleSkipReason } from '../test/fcqemu/support/test-initrd.ts';
import { startVmm } from '../test/fcqemu/support/vmm-process.ts';

const runs = Number(process.argv[2] ?? 5);
const samples = new Map<string, number[]>();

function note(name: string, value: number): void {
  samples.set(name, [...(samples.get(name) ?? []), value]);
}

function residentMib(pid: number | undefined, field: 'VmRSS' | 'RssAnon'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024;
}

function childOf(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ')[0]);
}

async function timed<T>(name: string, act: () => Promise<T>): Promise<T> {
  const begin = performance.now();
  const result = await act();
  note(`${name} (ms)`, performance.now() - begin);
  return result;
}

async function run(): Promise<void> {
  const cleanups: (() => unknown)[] = [];
  const t = { after: (fn: () => unknown) => void cleanups.push(fn) } as unknown as TestContext;
  try {
    await timed('exec to first answer', async () => await (await startVmm(t)).get('/version'));
    const vmm = await prepared(t, 'echo ready; while :; do sleep 1000; done');
    note('fcqemu resident before start (MiB)', residentMib(vmm.process.pid, 'VmRSS'));
    await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 256 });
    const begin = performance.now();
    await timed('InstanceStart', () => start(vmm));
    await said(vmm, 'ready');
    note('InstanceStart to user space (ms)', performance.now() - begin);
    note('fcqemu resident with a guest (MiB)', residentMib(vmm.process.pid, 'VmRSS'));
    note('fcqemu private with a guest (MiB)', residentMib(vmm.process.pid, 'RssAnon'));
    const qemu = childOf(vmm.process.pid);
    note('QEMU resident, 256 MiB guest (MiB)', residentMib(qemu, 'VmRSS'));
    note('QEMU private without guest memory (MiB)', residentMib(qemu, 'RssAnon'));
    await timed('pause', () => vmm.patch('/vm', { state: 'Paused' }));
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await timed('snapshot create', () => vmm.put('/snapshot/create', body));
    await timed('resume', () => vmm.patch('/vm', { state: 'Resumed' }));
    const clone = await startVmm(t);
    await timed('snapshot load and resume', () => clone.put('/snapshot/load', { ...body, resume_vm: true }));
  } finally {
    for (const cleanup of cleanups) await cleanup();
  }
}

const reason = bundleSkipReason();
if (reason) {
  console.error(reason);
  process.exitCode = 1;
} else {
  for (let i = 0; i < runs; i++) await run();
  for (const [name, values] of samples) {
    const sorted = values.toSorted((a, b) => a - b);
    const at = (share: number) => (sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(0).padStart(7);
    console.log(`${name.padEnd(44)} min ${at(0)}  median ${at(0.5)}  max ${at(1)}`);
  }
}
