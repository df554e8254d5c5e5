/** `PUT /snapshot/load`: builds the machine of a snapshot again, its memory mapped privately from the file. */

import { once } from 'node:events';
import { accessSync, constants, openSync, statSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { createConnection } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorText, unsupported } from '../fault.ts';
import type { ThreadLog } from '../log.ts';
import type { QemuDrive, QemuSpec } from '../qemu/arguments.ts';
import type { MicroVm } from './micro-vm.ts';
import { TapError } from './net/tap.ts';
import { readSnapshotFile, SNAPSHOT_VERSION, type SnapshotFile, SnapshotFileError } from './snapshot-file.ts';
import { bindProblem } from './vsock/vsock.ts';

const PREFIX = 'Load snapshot error';

/** A failed restore: answered, and then the process ends because it is too dirty to go on. */
export function restoreFault(cause: string): Fault {
  return new Fault(`${PREFIX}: Failed to restore from snapshot: ${cause}`, { fatal: 'Restore' });
}

/** What can be refused without ending the process. @throws Fault */
export function checkLoadRequest(bootSpecific: boolean, log: Pick<ThreadLog, 'info'>): void {
  if (!bootSpecific) return;
  const reason = 'Loading a microVM snapshot not allowed after configuring boot-specific resources.';
  log.info(reason);
  throw new Fault(`${PREFIX}: ${reason}`);
}

export interface RestorePlan extends SnapshotFile {
  /** the snapshot's machine with the overrides of the request */
  spec: QemuSpec;
  /** descriptor of the memory file, to be closed when QEMU has it */
  memory: number;
}

/** Reads the snapshot and checks that the host still has what the machine needs. @throws Fault */
export async function planRestore(
  params: ActionArguments['LoadSnapshot'],
  { instanceId, sandbox }: Pick<QemuSpec, 'instanceId' | 'sandbox'>,
): Promise<RestorePlan> {
  const { header, state } = await readFile(params.snapshot_path);
  const interfaces = overriddenInterfaces(header.spec.interfaces, params.network_overrides);
  const vsock = overriddenVsock(header.spec.vsock, params.vsock_override);
  const memoryPath = params.mem_backend?.backend_path ?? params.mem_file_path ?? '';
  if (params.mem_backend?.backend_type === 'Uffd') refuseUffd(memoryPath);
  const memory = openMemoryFile(memoryPath, header.machine.mem_size_mib);
  const spec: QemuSpec = {
    ...header.spec,
    instanceId,
    sandbox,
    restore: true,
    announces: header.spec.announces ?? true,
    drives: header.spec.drives.map(checkedDrive),
    interfaces,
    vsock,
  };
  return { header, state, spec, memory };
}

async function readFile(path: string): Promise<SnapshotFile> {
  let file: SnapshotFile;
  try {
    file = await readSnapshotFile(path);
  } catch (error) {
    const cause =
      error instanceof SnapshotFileError
        ? `Failed to load snapshot state from file: ${error.message}`
        : `Failed to open snapshot file: ${ioErrorText(error)}`;
    throw restoreFault(`Failed to get snapshot state from file: ${cause}`);
  }
  const { version } = file.header;
  if (version !== SNAPSHOT_VERSION) {
    throw restoreFault(
      `Failed to get snapshot state from file: Failed to load snapshot state from file: Invalid data version: ${version}`,
    );
  }
  return file;
}

/** What Firecracker would not find is told first. */
function refuseUffd(socket: string): never {
  try {
    statSync(socket);
  } catch (error) {
    const cause = `Failed to connect to UDS Unix stream: ${ioErrorText(error)}`;
    throw restoreFault(`Failed to load guest memory: Error creating guest memory from uffd: ${cause}`);
  }
  throw unsupported(PREFIX, 'Uffd memory backends are');
}

/**
 * The file has to be as large as the memory. QEMU gets it by descriptor, so that it is this very file whatever becomes
 * of its name, and opens it for writing although it never writes.
 */
function openMemoryFile(path: string, memoryMib: number): number {
  const prefix = 'Failed to load guest memory: Error creating guest memory from file';
  try {
    // a directory too
    if (statSync(path).size >= memoryMib * 1024 * 1024) return openSync(path, constants.O_RDWR);
  } catch (error) {
    throw restoreFault(`${prefix}: Failed to load guest memory: ${ioErrorText(error)}`);
  }
  const cause = 'Total sum of memory regions exceeds largest possible file offset';
  throw restoreFault(`${prefix}: Failed to restore guest memory: ${cause}`);
}

/** The file may be of another kind than when the machine was built. */
function checkedDrive(drive: QemuDrive): QemuDrive {
  const { path_on_host: path, is_read_only: readOnly } = drive;
  try {
    accessSync(path, readOnly ? constants.R_OK : constants.R_OK | constants.W_OK);
    return { ...drive, isBlockDevice: statSync(path).isBlockDevice() };
  } catch (error) {
    throw deviceFault(
      `Block: Virtio backend error: Error manipulating the backing file: ${ioErrorText(error)} ${path}`,
    );
  }
}

function overriddenInterfaces(
  interfaces: QemuSpec['interfaces'],
  overrides: ActionArguments['LoadSnapshot']['network_overrides'],
): QemuSpec['interfaces'] {
  for (const { iface_id } of overrides) {
    if (!interfaces.some((iface) => iface.iface_id === iface_id)) throw stateFault('Unknown Network Device.');
  }
  return interfaces.map((iface) => {
    const override = overrides.findLast(({ iface_id }) => iface_id === iface.iface_id);
    return override ? { ...iface, host_dev_name: override.host_dev_name } : iface;
  });
}

function overriddenVsock(
  vsock: QemuSpec['vsock'],
  override: ActionArguments['LoadSnapshot']['vsock_override'],
): QemuSpec['vsock'] {
  if (!override) return vsock;
  if (!vsock) throw stateFault('Unknown Vsock Device.');
  return { ...vsock, uds_path: override.uds_path };
}

function stateFault(cause: string): Fault {
  return restoreFault(`Failed to get snapshot state from file: ${cause}`);
}

/** A device that cannot be built again. */
function deviceFault(cause: string): Fault {
  const prefix = 'Failed to build microVM from snapshot: Failed to restore devices: Error restoring MMIO devices';
  return restoreFault(`${prefix}: ${cause}`);
}

/** What went wrong while the devices of a snapshot were taken over. */
export function takeOverFault(error: unknown): Fault {
  return error instanceof TapError
    ? deviceFault(`Net: Failed to create a network device: Open tap device failed: ${error.message}`)
    : deviceFault(`VsockUnixBackend: ${bindProblem(error)}`);
}

/** Feeds the device state to a QEMU that waits for it. @throws Fault */
export async function loadDeviceState(vm: MicroVm, { header, state }: SnapshotFile): Promise<void> {
  if (vm.qemuVersion !== header.qemuVersion) {
    throw restoreFault(
      `Failed to get snapshot state from file: the snapshot was made by QEMU ${header.qemuVersion}, this is ${vm.qemuVersion}`,
    );
  }
  const directory = await mkdtemp(join(tmpdir(), 'fcqemu-'));
  try {
    const socketPath = join(directory, 'state');
    await Promise.all([
      vm.execute('migrate-set-capabilities', { capabilities: [{ capability: 'events', state: true }] }),
      // the guest is not told to announce itself to the network, under an address that may be another's by now
      vm.execute('migrate-set-parameters', { 'announce-rounds': 0 }),
    ]);
    await vm.execute('migrate-incoming', { uri: `unix:${socketPath}` });
    const socket = createConnection(socketPath);
    await once(socket, 'connect');
    // a QEMU that closes its end early says why, or ends: that is waited for
    socket.on('error', () => {});
    socket.end(state);
    await vm.incomingEnd();
  } catch (error) {
    throw restoreFault(`Failed to build microVM from snapshot: ${ioErrorText(error)}`);
  } finally {
    await rm(directory, { recursive: true, force: true });
  }
}
