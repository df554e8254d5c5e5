/** Configured drives: what the API accepts, their order, and their echo in `GET /vm/config`. */
import { closeSync, constants, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import type { ActionArguments } from '../api/actions.ts';
import { Fault, ioErrorDebug, ioErrorText, systemError, unsupported } from '../fault.ts';
import { debugText } from '../json/scanner.ts';
import type { ThreadLog } from '../log.ts';
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
  put(config: ActionArguments['InsertBlockDevice'], log: Pick<ThreadLog, 'warn'>): void {
    const at = this.list.findIndex((drive) => drive.drive_id === config.drive_id);
    if (config.is_root_device && this.root && this.root.drive_id !== config.drive_id) {
      throw new Fault(`${PREFIX}: A root block device already exists!`, { debug: 'RootBlockDeviceAlreadyAdded' });
    }
    const drive = storedDrive(config, log);
    checkBackingFile(drive.path_on_host, drive.is_read_only, 'create', log);
    if (drive.io_engine === 'Async') log.warn('[DevPreview] Async file IO is in development preview.');
    if (at === -1) {
      if (drive.is_root_device) this.list.unshift(drive);
      else this.list.push(drive);
      return;
    }
    this.list[at] = drive;
    // the two change places
    if (drive.is_root_device && at > 0) this.list.splice(at, 1, ...this.list.splice(0, 1, drive));
  }

  /** Records what a running drive was changed to. */
  update(drive: StoredDrive, path: string | null, limiter: ActionArguments['UpdateBlockDevice']['rate_limiter']): void {
    drive.path_on_host = path ?? drive.path_on_host;
    drive.rate_limiter = updatedLimiter(drive.rate_limiter, limiter);
  }
}

function storedDrive(config: ActionArguments['InsertBlockDevice'], log: Pick<ThreadLog, 'warn'>): StoredDrive {
  if (config.path_on_host === null || config.socket !== null) {
    const vhostUser =
      config.socket !== null &&
      config.path_on_host === null &&
      config.is_read_only === null &&
      config.rate_limiter === null &&
      config.io_engine === null;
    if (vhostUser) refuseVhostUser(config.socket ?? '', log);
    throw new Fault(`${PREFIX}: Unable to create the virtio block device: Invalid block config.`, {
      debug: 'CreateBlockDevice(InvalidBlockConfig)',
    });
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

/** What Firecracker would not find is told first. */
function refuseVhostUser(socket: string, log: Pick<ThreadLog, 'warn'>): never {
  log.warn('[DevPreview] vhost-user-blk device is in development preview.');
  try {
    statSync(socket);
  } catch (error) {
    const cause = `Failed to connect to UDS Unix stream: ${ioErrorText(error)}`;
    throw new Fault(
      `${PREFIX}: Unable to create the virtio block device: Vhost user backend error: Vhost-user error: ${cause}`,
      { debug: `CreateBlockDevice(VhostUserBackend(VhostUser(Connect(${ioErrorDebug(error)}))))` },
    );
  }
  throw unsupported(PREFIX, 'vhost-user drives are');
}

const SECTOR_BYTES = 512;

/**
 * Opens the file as the device will, to report now what would fail later.
 * @throws Fault
 */
export function checkBackingFile(
  path: string,
  readOnly: boolean,
  purpose: 'create' | 'patch',
  log: Pick<ThreadLog, 'warn'>,
): void {
  let stat: Stats;
  try {
    const fd = openSync(path, readOnly ? constants.O_RDONLY : constants.O_RDWR);
    stat = fstatSync(fd);
    closeSync(fd);
    // what has no end has no size
    if (stat.isFIFO()) throw systemError('ESPIPE');
  } catch (error) {
    const cause = `Virtio backend error: Error manipulating the backing file: ${ioErrorText(error)} ${path}`;
    const debug = `VirtioBackend(BackingFile(${ioErrorDebug(error)}, ${debugText(path)}))`;
    if (purpose === 'patch') throw patchFault(`Block: ${cause}`);
    throw new Fault(`${PREFIX}: Unable to create the virtio block device: ${cause}`, {
      debug: `CreateBlockDevice(${debug})`,
    });
  }
  if (!stat.isFile() || stat.size % SECTOR_BYTES === 0) return;
  log.warn(
    `Disk size ${stat.size} is not a multiple of sector size ${SECTOR_BYTES}; ` +
      'the remainder will not be visible to the guest.',
  );
}

/** A refused `PATCH /drives`. */
export function patchFault(cause: string): Fault {
  return new Fault(`${PREFIX}: Unable to patch the block device: ${cause} Please verify the request arguments.`);
}
