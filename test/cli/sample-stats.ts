/** What a VM uses, with everything known. */
import type { VmStats } from '../../src/api/stats.ts';

export function stats(name: string, values: Partial<VmStats> = {}): VmStats {
  return {
    id: `id-${name}`,
    name,
    state: 'running',
    problem: null,
    sampledAt: '2026-01-02T03:04:05.000Z',
    uptimeMs: 61_500,
    vcpus: 1,
    cpuPercent: 12.5,
    cpuMs: 4250,
    threads: 6,
    memoryBytes: 512 * 2 ** 20,
    rssBytes: 200 * 2 ** 20,
    guestUsedBytes: 96 * 2 ** 20,
    guestTotalBytes: 488 * 2 ** 20,
    diskBytes: 2 ** 34,
    diskAllocatedBytes: 2 ** 28,
    suspendedBytes: null,
    diskReadBytes: 4096,
    diskWrittenBytes: 8192,
    netReceivedBytes: 100,
    netSentBytes: 200,
    ...values,
  };
}
