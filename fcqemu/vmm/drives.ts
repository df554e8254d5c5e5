/** Configured drives: what the API accepts, their order, and their echo in `GET /vm/config`. */
import { closeSync, constants, openSync } from 'node:fs';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorText, unsupported } from '../fault.ts';
import { type StoredLimiter, storedLimiter, updatedLimiter } from './rate-limiter.ts';

const PREFIX = 'Drive config error';

/** A drive as Firecracker echoes it. */
export interface StoredDrive {
  drive_id: string;
  partuuid: string | null;
  is_root_device: boolean;
  cache_type: 'Unsafe' | 'Writeback';
  is_read_only: boolean;
  path_on_host: string;
  rate_limiter: StoredLimiter | null;
  io_engine: 'Async' | 'Sync';
  socket: null;
}

export class Drives {
  /** the root drive comes first, whenever it was configured */
  readonly list: StoredDrive[] = [];

  get root(): StoredDrive | undefined {
    return this.list.find((drive) => drive.is_root_device);
  }

  find(id: string): StoredDrive | undefined {
    return this.list.find((drive) => drive.drive_id === id);
  }

  /**
   * Adds a drive or replaces the one with the same id, which keeps its place.
   * @throws Fault
   */
  put(config: ActionArguments['InsertBlockDevice']): void {
    const at = this.list.findIndex((drive) => drive.drive_id === config.drive_id);
    if (config.is_root_device && this.root && this.root.drive_id !== config.drive_id) {
      throw new Fault(`${PREFIX}: A root block device already exists!`);
    }
    const drive = storedDrive(config);
    checkBackingFile(drive.path_on_host, drive.is_read_only, 'create');
    if (at !== -1) this.list[at] = drive;
    else this.list.push(drive);
    if (drive.is_root_device) {
      this.list.splice(this.list.indexOf(drive), 1);
      this.list.unshift(drive);
    }
  }

  /** Records what a running drive was changed to. */
  update(drive: StoredDrive, path: string | null, limiter: ActionArguments['UpdateBlockDevice']['rate_limiter']): void {
    drive.path_on_host = path ?? drive.path_on_host;
    drive.rate_limiter = updatedLimiter(drive.rate_limiter, limiter);
  }
}

function storedDrive(config: ActionArguments['InsertBlockDevice']): StoredDrive {
  if (config.path_on_host === null || config.socket !== null) {
    const vhostUser =
      config.socket !== null &&
      config.path_on_host === null &&
      config.is_read_only === null &&
      config.rate_limiter === null &&
      config.io_engine === null;
    if (vhostUser) throw unsupported(PREFIX, 'vhost-user drives are');
    throw new Fault(`${PREFIX}: Unable to create the virtio block device: Invalid block config.`);
  }
  return {
    drive_id: config.drive_id,
    partuuid: config.partuuid,
    is_root_device: config.is_root_device,
    cache_type: config.cache_type,
    is_read_only: config.is_read_only ?? false,
    path_on_host: config.path_on_host,
    rate_limiter: storedLimiter(config.rate_limiter),
    io_engine: config.io_engine ?? 'Sync',
    socket: null,
  };
}

/**
 * Opens the file as the device will, to report now what would fail later.
 * @throws Fault
 */
export function checkBackingFile(path: string, readOnly: boolean, purpose: 'create' | 'patch'): void {
  try {
    closeSync(openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR));
  } catch (error) {
    const cause = `Error manipulating the backing file: ${ioErrorText(error)} ${path}`;
    if (purpose === 'create') {
      throw new Fault(`${PREFIX}: Unable to create the virtio block device: Virtio backend error: ${cause}`);
    }
    throw patchFault(`Failed perform action on device: Virtio backend error: ${cause}`);
  }
}

/** A refused `PATCH /drives`. */
export function patchFault(cause: string): Fault {
  return new Fault(`${PREFIX}: Unable to patch the block device: ${cause} Please verify the request arguments.`);
}
