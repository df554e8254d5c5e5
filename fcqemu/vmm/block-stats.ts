/** QEMU's counters of drives. */
import { driveNodes } from '../qemu/arguments.ts';
import type { MicroVm } from './micro-vm.ts';

export type BlockStats = Record<
  | ('rd_bytes' | 'wr_bytes' | 'rd_operations' | 'wr_operations' | 'flush_operations')
  | ('rd_total_time_ns' | 'wr_total_time_ns'),
  number
>;

/** @returns the counters by index of the drive */
export async function blockStats(vm: Pick<MicroVm, 'execute'>): Promise<(index: number) => BlockStats | undefined> {
  const all = await vm.execute<{ qdev?: string; stats: BlockStats }[]>('query-blockstats');
  return (index) => {
    const { device } = driveNodes(index);
    return all.find(({ qdev }) => qdev?.split('/').includes(device))?.stats;
  };
}
