/**
 * How long fcqemu and a Linux guest in it take, what they weigh, and what is QEMU's own part of it. Needs a bundle
 * directory in BANGER_TEST_BUNDLE; FIRECRACKER_BIN names another program to measure, e.g. dist/fcqemu.
 * Usage: node bench/fcqemu.ts [runs]
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { basename, join } from 'node:path';
import type { TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { Qmp, type QmpEvent } from '../fcqemu/qemu/qmp.ts';
import { readSnapshotFile } from '../fcqemu/vmm/snapshot-file.ts';
import { prepared, said, start } from '../test/fcqemu/support/linux-guest.ts';
import { bundleSkipReason } from '../test/fcqemu/support/test-initrd.ts';
import { startVmm, type Vmm } from '../test/fcqemu/support/vmm-process.ts';

const runs = Number(process.argv[2] ?? 5);
const samples = new Map<string, number[]>();

/** Time in which an idle fcqemu should not be seen on a CPU. */
const IDLE_SECONDS = 5;

function note(name: string, value: number): void {
  samples.set(name, [...(samples.get(name) ?? []), value]);
}

function statusMib(pid: number | undefined, field: 'VmRSS' | 'RssAnon'): number {
  const status = readFileSync(`/proc/${pid}/status`, 'latin1');
  return Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(status)?.[1]) / 1024;
}

function childOf(pid: number | undefined): number {
  return Number(readFileSync(`/proc/${pid}/task/${pid}/children`, 'latin1').trim().split(' ')[0]);
}

/** CPU time of a process in `ms`. */
function cpuMs(pid: number | undefined): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
    .replace(/^.*\) /s, '')
    .split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

/** What a process has resident of a file's mapping: shared with others, and its own. */
function mappedMib(pid: number, path: string): { shared: number; own: number } {
  const result = { shared: 0, own: 0 };
  const mappings = readFileSync(`/proc/${pid}/smaps`, 'latin1').split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m);
  for (const mapping of mappings.filter((text) => text.split('\n')[0]?.endsWith(path))) {
    const of = (names: string) => {
      const lines = [...mapping.matchAll(new RegExp(`^(?:${names}):\\s+(\\d+)`, 'gm'))];
      return lines.reduce((sum, [, kib]) => sum + Number(kib), 0) / 1024;
    };
    result.shared += of('Shared_Clean|Shared_Dirty');
    result.own += of('Private_Clean|Private_Dirty');
  }
  return result;
}

async function timed<T>(name: string, act: () => Promise<T>): Promise<T> {
  const begin = performance.now();
  const result = await act();
  note(`${name} (ms)`, performance.now() - begin);
  return result;
}

/**
 * The same machine by QEMU alone, with the arguments fcqemu gave it: from its start to the answer to `cont`.
 * The command line is fcqemu's, so the descriptors it names have to be there.
 */
async function bareLoad(commandLine: string[], state: Buffer, memory: string, dir: string): Promise<number> {
  const [path = '', ...args] = commandLine;
  const begin = performance.now();
  await using memoryFile = await open(memory);
  // the path leads through a process that is gone
  const child = spawn(basename(path), args, {
    stdio: ['ignore', 'ignore', 'inherit', 'pipe', 'pipe', 'pipe', 'pipe', memoryFile.fd],
  });
  try {
    const loaded = Promise.withResolvers<void>();
    const qmp = new Qmp(child.stdio[4] as never, ({ event, data }: QmpEvent) => {
      if (event === 'MIGRATION' && data?.status === 'completed') loaded.resolve();
    });
    await qmp.connect();
    const path = join(dir, 'bare');
    await qmp.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] });
    await qmp.execute('migrate-incoming', { uri: `unix:${path}` });
    const socket = createConnection(path);
    await once(socket, 'connect');
    socket.end(state);
    await loaded.promise;
    await qmp.execute('cont');
    return performance.now() - begin;
  } finally {
    child.kill('SIGKILL');
    await once(child, 'close');
  }
}

async function measureClones(t: TestContext, vmm: Vmm, body: { snapshot_path: string; mem_file_path: string }) {
  const clones = [await startVmm(t), await startVmm(t)] as const;
  const begin = performance.now();
  await timed('snapshot load to running vCPU', () => clones[0].put('/snapshot/load', { ...body, resume_vm: true }));
  const loadMs = performance.now() - begin;
  await clones[1].put('/snapshot/load', { ...body, resume_vm: true });
  await delay(500);
  const qemus = clones.map((clone) => childOf(clone.process.pid));
  for (const qemu of qemus) {
    const { shared, own } = mappedMib(qemu, body.mem_file_path);
    note("clone: guest's memory shared with the other (MiB)", shared);
    note("clone: guest's memory of its own (MiB)", own);
  }
  const commandLine = readFileSync(`/proc/${qemus[0]}/cmdline`, 'utf8').split('\0').slice(0, -1);
  for (const clone of clones) {
    clone.process.kill('SIGKILL');
    await clone.ended;
  }
  const { state } = await readSnapshotFile(body.snapshot_path);
  const bareMs = await bareLoad(commandLine, state, body.mem_file_path, vmm.dir);
  note('the same by QEMU alone (ms)', bareMs);
  note('ratio of both (percent)', (loadMs / bareMs) * 100);
}

async function run(): Promise<void> {
  const cleanups: (() => unknown)[] = [];
  const t = { after: (fn: () => unknown) => void cleanups.push(fn) } as unknown as TestContext;
  try {
    await timed('exec to first answer', async () => await (await startVmm(t)).get('/version'));
    const vmm = await prepared(t, 'echo ready; while :; do sleep 1000; done');
    note('fcqemu resident before start (MiB)', statusMib(vmm.process.pid, 'VmRSS'));
    await vmm.put('/machine-config', { vcpu_count: 1, mem_size_mib: 256 });
    const begin = performance.now();
    await timed('InstanceStart', () => start(vmm));
    await said(vmm, 'guest up after');
    note("InstanceStart to the guest's init (ms)", performance.now() - begin);
    await said(vmm, 'ready');
    note('fcqemu resident with a guest (MiB)', statusMib(vmm.process.pid, 'VmRSS'));
    note('fcqemu private with a guest (MiB)', statusMib(vmm.process.pid, 'RssAnon'));
    const qemu = childOf(vmm.process.pid);
    note('QEMU resident, 256 MiB guest (MiB)', statusMib(qemu, 'VmRSS'));
    note('QEMU private without guest memory (MiB)', statusMib(qemu, 'RssAnon'));
    const cpuBefore = cpuMs(vmm.process.pid);
    await delay(IDLE_SECONDS * 1000);
    note(`fcqemu's CPU time in ${IDLE_SECONDS} idle seconds (ms)`, cpuMs(vmm.process.pid) - cpuBefore);
    await timed('pause', () => vmm.patch('/vm', { state: 'Paused' }));
    const body = { snapshot_path: join(vmm.dir, 'state'), mem_file_path: join(vmm.dir, 'memory') };
    await timed('snapshot create', () => vmm.put('/snapshot/create', body));
    await timed('resume', () => vmm.patch('/vm', { state: 'Resumed' }));
    vmm.process.kill('SIGKILL');
    await vmm.ended;
    await measureClones(t, vmm, body);
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
    console.log(`${name.padEnd(54)} min ${at(0)}  median ${at(0.5)}  max ${at(1)}`);
  }
}
