/** What VMs use, as tables: totals for `stats`, rates for `top`. */
import type { VmStats } from '../../api/stats.ts';
import { formatDuration, formatSize } from '../../units.ts';
import type { Paint } from './paint.ts';
import { renderTable } from './table.ts';

const HEADER = ['NAME', 'STATE', 'CPU', 'MEMORY', 'IN GUEST', 'DISK', 'READ', 'WRITTEN', 'NET IN', 'NET OUT', 'UPTIME'];

/** What is not known. */
const UNKNOWN = '-';

export function renderStats(vms: readonly VmStats[], paint: Paint): string {
  const rows = vms.map((vm) => [
    vm.name,
    vm.state,
    formatPercent(vm.cpuPercent),
    vm.suspendedBytes === null ? formatPart(vm.rssBytes, vm.memoryBytes) : `${formatSize(vm.suspendedBytes)} on disk`,
    formatPart(vm.guestUsedBytes, vm.guestTotalBytes),
    formatPart(vm.diskAllocatedBytes, vm.diskBytes),
    formatBytes(vm.diskReadBytes),
    formatBytes(vm.diskWrittenBytes),
    formatBytes(vm.netReceivedBytes),
    formatBytes(vm.netSentBytes),
    formatUptime(vm.uptimeMs),
  ]);
  return renderTable(HEADER, rows, paint);
}

export function formatPercent(percent: number | null): string {
  return percent === null ? UNKNOWN : `${percent.toFixed(1)} %`;
}

function formatBytes(bytes: number | null): string {
  return bytes === null ? UNKNOWN : formatSize(bytes);
}

export function formatUptime(ms: number | null): string {
  return ms === null ? UNKNOWN : formatDuration(ms);
}

export function formatRate(bytesPerSecond: number | null): string {
  return bytesPerSecond === null ? UNKNOWN : `${formatSize(Math.round(bytesPerSecond))}/s`;
}

/** `200 MiB / 1 GiB`; the whole is not worth telling of a part that is not known. */
export function formatPart(part: number | null, whole: number | null): string {
  if (part === null) return UNKNOWN;
  return whole === null ? formatSize(part) : `${formatSize(part)} / ${formatSize(whole)}`;
}
