/** `PUT /snapshot/create`: device state from QEMU, memory as a plain copy of the guest's RAM. */
import { constants } from 'node:fs';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorText, unsupported } from '../fault.ts';
import { copyMemory } from './guest-memory.ts';
import type { MicroVm } from './micro-vm.ts';
import { replaceFile } from './replace-file.ts';
import { type SnapshotHeader, writeSnapshotFile } from './snapshot-file.ts';

const PREFIX = 'Create snapshot error';
const MIB = 1024 * 1024;

/**
 * @param memoryFile descriptor of the memory file of a machine that was restored
 * @throws Fault; the machine stays paused either way
 */
export async function createSnapshot(
  vm: MicroVm,
  params: ActionArguments['CreateSnapshot'],
  header: SnapshotHeader,
  memoryFile: number | undefined,
): Promise<void> {
  if (params.snapshot_type === 'Diff') throw unsupported(PREFIX, 'diff snapshots are');
  try {
    await createFile(params.snapshot_path, 'snapshot');
    await writeSnapshotFile(params.snapshot_path, header, await deviceState(vm));
  } catch (error) {
    if (error instanceof Fault) throw error;
    throw new Fault(`${PREFIX}: Cannot save the microVM state: ${ioErrorText(error)}`);
  }
  await createFile(params.mem_file_path, 'memory');
  try {
    const bytes = header.machine.mem_size_mib * MIB;
    // the one that is there may be the memory of other machines, and of this one
    await replaceFile(params.mem_file_path, (path) => copyMemory(vm, bytes, memoryFile, path));
  } catch (error) {
    throw new Fault(`${PREFIX}: Cannot write the guest memory to file: ${ioErrorText(error)}`);
  }
}

/** Makes the file if it is not there, with the rights a new file of this process has. @throws Fault */
async function createFile(path: string, which: 'snapshot' | 'memory'): Promise<void> {
  try {
    await (await open(path, constants.O_WRONLY | constants.O_CREAT)).close();
  } catch (error) {
    throw new Fault(`${PREFIX}: Cannot perform open on the ${which} backing file: ${ioErrorText(error)}`);
  }
}

/**
 * The state of all devices and CPUs without memory. The command is made for Xen, but unlike a migration it
 * leaves the machine as it is: paused, its disks open, and ready for another snapshot.
 */
async function deviceState(vm: MicroVm): Promise<Buffer> {
  const directory = await mkdtemp(join(tmpdir(), 'fcqemu-'));
  try {
    const filename = join(directory, 'state');
    await vm.execute('xen-save-devices-state', { filename, live: false });
    return await readFile(filename);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
