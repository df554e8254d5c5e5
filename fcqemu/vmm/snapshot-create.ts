/** `PUT /snapshot/create`: device state through QEMU's migration, memory as a plain copy of the guest's RAM. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readlinkSync } from 'node:fs';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { buffer } from 'node:stream/consumers';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorText, unsupported } from '../fault.ts';
import type { MicroVm } from './micro-vm.ts';
import { type SnapshotHeader, writeSnapshotFile } from './snapshot-file.ts';

const PREFIX = 'Create snapshot error';

/** @throws Fault; the machine stays paused either way */
export async function createSnapshot(
  vm: MicroVm,
  params: ActionArguments['CreateSnapshot'],
  description: Omit<SnapshotHeader, 'memoryInState'>,
): Promise<void> {
  if (params.snapshot_type === 'Diff') throw unsupported(PREFIX, 'diff snapshots are');
  const memory = sharedMemoryPath(vm.pid);
  const header = { ...description, memoryInState: memory === undefined };
  try {
    // what is more likely to fail goes first, because QEMU gives its state away only once per pause
    if (memory) await copySparse(memory, params.mem_file_path);
    else await emptyFile(params.mem_file_path, header.machine.mem_size_mib * 1024 * 1024);
  } catch (error) {
    throw new Fault(`${PREFIX}: Cannot write the guest memory to file: ${ioErrorText(error)}`);
  }
  try {
    if (header.memoryInState) {
      await receiveState(vm, header, (stream) => writeSnapshotFile(params.snapshot_path, header, stream));
    } else {
      vm.savedState ??= await receiveState(vm, header, buffer);
      await writeSnapshotFile(params.snapshot_path, header, Readable.from([vm.savedState]));
    }
  } catch (error) {
    throw new Fault(`${PREFIX}: Cannot save the microVM state: ${ioErrorText(error)}`);
  }
}

/**
 * The RAM of a machine that was booted is a memfd that can be read through /proc. The RAM of a restored one is
 * private to QEMU: it goes into the device state, and the memory file only has its size.
 */
function sharedMemoryPath(pid: number): string | undefined {
  const directory = `/proc/${pid}/fd`;
  for (const fd of readdirSync(directory)) {
    const path = join(directory, fd);
    try {
      if (readlinkSync(path).startsWith('/memfd:memory-backend-memfd')) return path;
    } catch {
      // closed in between
    }
  }
  return undefined;
}

/** Lets QEMU migrate into a socket nobody else can reach, and `consume` what comes. */
async function receiveState<T>(
  vm: MicroVm,
  header: SnapshotHeader,
  consume: (stream: Readable) => Promise<T>,
): Promise<T> {
  await vm.execute('migrate-set-capabilities', {
    capabilities: [{ capability: 'x-ignore-shared', state: !header.memoryInState }],
  });
  const directory = await mkdtemp(join(tmpdir(), 'fcqemu-'));
  const server = createServer({ pauseOnConnect: true });
  try {
    const socketPath = join(directory, 'state');
    server.listen(socketPath);
    await once(server, 'listening');
    const connected = once(server, 'connection') as Promise<[Socket]>;
    await vm.execute('migrate', { uri: `unix:${socketPath}` });
    const [socket] = await connected;
    const result = await consume(socket);
    await migrationEnd(vm);
    return result;
  } finally {
    server.close();
    await rm(directory, { recursive: true, force: true });
  }
}

/** QEMU closes the stream before it says that it is done. */
async function migrationEnd(vm: MicroVm): Promise<void> {
  for (let attempt = 0; attempt < 500; attempt++) {
    const { status, 'error-desc': reason } = await vm.execute<{ status: string; 'error-desc'?: string }>(
      'query-migrate',
    );
    if (status === 'completed') return;
    if (status === 'failed' || status === 'cancelled') throw new Error(reason ?? `QEMU's migration ${status}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
  throw new Error('QEMU did not finish saving its state');
}

/** cp knows how to leave holes out; the file may be as large as the guest's memory. */
async function copySparse(from: string, to: string): Promise<void> {
  const child = spawn('cp', ['--sparse=always', '--', from, to], { stdio: ['ignore', 'ignore', 'pipe'] });
  let stderr = '';
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text;
  });
  const [code] = (await once(child, 'close')) as [number | null];
  if (code !== 0) throw new Error(stderr.trim() || `cp ended with ${code}`);
}

async function emptyFile(path: string, bytes: number): Promise<void> {
  const file = await open(path, 'w', 0o600);
  await file.truncate(bytes);
  await file.close();
}
