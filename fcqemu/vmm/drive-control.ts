/** Drives of a running machine: another backing file, other limits, counters. */
import { statSync } from 'node:fs';
import type { ActionArguments } from '../api/actions.ts';
import type { ThreadLog } from '../log.ts';
import { addDevice, type Totals } from '../metrics.ts';
import { driveNodes, fileNode } from '../qemu/arguments.ts';
import { blockStats } from './block-stats.ts';
import { DriveLimits } from './drive-limits.ts';
import { checkBackingFile, type Drives, patchFault, type StoredDrive } from './drives.ts';
import type { MicroVm } from './micro-vm.ts';

interface BlockNode {
  'node-name': string;
  image: { 'virtual-size': number };
}

export class DriveControl {
  readonly #vm: MicroVm;
  readonly #drives: Drives;
  /** current name of each drive's file node, by index */
  readonly #fileNodes: string[];
  readonly #limits: DriveLimits;
  readonly #log: Pick<ThreadLog, 'warn'>;
  #replacements = 0;

  constructor(vm: MicroVm, drives: Drives, log: Pick<ThreadLog, 'warn'>) {
    this.#vm = vm;
    this.#drives = drives;
    this.#log = log;
    this.#fileNodes = drives.list.map((_, index) => driveNodes(index).file);
    this.#limits = new DriveLimits(vm);
  }

  /** Applies the configured limits to a machine that is about to run. */
  async applyLimits(): Promise<void> {
    for (const [index, drive] of this.#drives.list.entries()) {
      if (drive.rate_limiter) await this.#limits.set(index, drive.rate_limiter);
    }
  }

  /** `PATCH /drives`. @throws Fault */
  async update({ drive_id, path_on_host, rate_limiter }: ActionArguments['UpdateBlockDevice']): Promise<void> {
    const drive = this.#drives.find(drive_id);
    if (!drive) throw patchFault('Failed perform action on device: Device not found');
    if (path_on_host === null && rate_limiter === null) {
      throw patchFault('Block: Running method expected different backend.');
    }
    const index = this.#drives.list.indexOf(drive);
    if (path_on_host !== null) {
      checkBackingFile(path_on_host, drive.is_read_only, 'patch', this.#log);
      await this.#replaceFile(index, { ...drive, path_on_host });
    }
    this.#drives.update(drive, path_on_host, rate_limiter);
    if (rate_limiter) await this.#limits.set(index, drive.rate_limiter);
  }

  /** Firecracker's counters of all drives, and of each as `block_<id>`. */
  async counters(): Promise<Totals> {
    const totals: Totals = {};
    const statsOf = await blockStats(this.#vm);
    for (const [index, drive] of this.#drives.list.entries()) {
      const stats = statsOf(index);
      if (!stats) continue;
      const { rd_bytes, wr_bytes, rd_operations, wr_operations, flush_operations } = stats;
      addDevice(totals, 'block', drive.drive_id, {
        read_bytes: rd_bytes,
        write_bytes: wr_bytes,
        read_count: rd_operations,
        write_count: wr_operations,
        // flushes of an unsafe cache are ignored
        flush_count: drive.cache_type === 'Unsafe' ? 0 : flush_operations,
        read_agg: Math.round(stats.rd_total_time_ns / 1000),
        write_agg: Math.round(stats.wr_total_time_ns / 1000),
      });
    }
    return totals;
  }

  /** Opens the new file, puts it below the node the device sees, and closes the old one. */
  async #replaceFile(index: number, drive: StoredDrive): Promise<void> {
    const next = `${driveNodes(index).file}_${++this.#replacements}`;
    const isBlockDevice = statSync(drive.path_on_host).isBlockDevice();
    try {
      await this.#vm.execute('blockdev-add', fileNode(next, { ...drive, isBlockDevice }));
      await this.#vm.execute('blockdev-reopen', {
        options: [
          {
            driver: 'raw',
            'node-name': driveNodes(index).format,
            file: next,
            'read-only': drive.is_read_only,
            cache: { direct: false, 'no-flush': drive.cache_type === 'Unsafe' },
          },
        ],
      });
    } catch (error) {
      await this.#vm.execute('blockdev-del', { 'node-name': next }).catch(() => {});
      throw patchFault(`Virtio backend error: ${error instanceof Error ? error.message : String(error)}.`);
    }
    await this.#announceSize(index, drive, next);
    await this.#vm.execute('blockdev-del', { 'node-name': this.#fileNodes[index] });
    this.#fileNodes[index] = next;
  }

  /**
   * Tells the guest the new size by resizing the disk to the size its file has already. QEMU offers no other
   * way, so the guest keeps the old size of a drive it may only read.
   */
  async #announceSize(index: number, drive: StoredDrive, fileNodeName: string): Promise<void> {
    if (drive.is_read_only) return;
    const nodes = await this.#vm.execute<BlockNode[]>('query-named-block-nodes', { flat: true });
    const size = nodes.find((node) => node['node-name'] === fileNodeName)?.image['virtual-size'];
    if (size === undefined || size % 512 !== 0) return;
    await this.#vm.execute('block_resize', { 'node-name': driveNodes(index).format, size });
  }
}
