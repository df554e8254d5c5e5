/** The screen of `banger top` as text: which VMs in which order, and as much of it as fits. */
import type { StatsFrame, VmStats } from '../../api/stats.ts';
import type { Paint } from './paint.ts';
import { formatPart, formatPercent, formatRate, formatUptime } from './stats-table.ts';

export type SortKey = 'cpu' | 'memory' | 'disk' | 'network' | 'name';

export interface TopState {
  frame: StatsFrame;
  /** the frame before, for rates */
  previous?: StatsFrame | undefined;
  sort: SortKey;
  /** largest last; for names, Z first */
  reversed: boolean;
  /** index of the first VM on the screen */
  offset: number;
}

export interface ScreenSize {
  columns: number;
  rows: number;
}

/** A VM with what it moved per second since the frame before; null when that is not known. */
export interface TopRow extends VmStats {
  diskRate: number | null;
  receivedRate: number | null;
  sentRate: number | null;
}

interface Column {
  title: string;
  /** marked when it decides the order */
  key?: SortKey;
  text(row: TopRow): string;
}

const COLUMNS: readonly Column[] = [
  { title: 'NAME', key: 'name', text: ({ name }) => name },
  { title: 'STATE', text: ({ state }) => state },
  { title: 'CPU', key: 'cpu', text: ({ cpuPercent }) => formatPercent(cpuPercent) },
  { title: 'MEMORY', key: 'memory', text: ({ rssBytes, memoryBytes }) => formatPart(rssBytes, memoryBytes) },
  { title: 'IN GUEST', text: ({ guestUsedBytes, guestTotalBytes }) => formatPart(guestUsedBytes, guestTotalBytes) },
  { title: 'DISK I/O', key: 'disk', text: ({ diskRate }) => formatRate(diskRate) },
  { title: 'NET IN', key: 'network', text: ({ receivedRate }) => formatRate(receivedRate) },
  { title: 'NET OUT', text: ({ sentRate }) => formatRate(sentRate) },
  { title: 'UPTIME', text: ({ uptimeMs }) => formatUptime(uptimeMs) },
];

const SORT_VALUES: Record<Exclude<SortKey, 'name'>, (row: TopRow) => number> = {
  cpu: ({ cpuPercent }) => cpuPercent ?? -1,
  memory: ({ rssBytes }) => rssBytes ?? -1,
  disk: ({ diskRate }) => diskRate ?? -1,
  network: ({ receivedRate, sentRate }) => (receivedRate ?? -1) + (sentRate ?? -1),
};

const HELP = 'sort: c CPU  m memory  d disk  n network  a name  r reverse   arrows: scroll   q quit';

/** Lines above and below the VMs: summary, blank, header, blank, help. */
const FRAME_LINES = 5;

/** VMs that fit on the screen. */
export function pageSize({ rows }: ScreenSize): number {
  return Math.max(rows - FRAME_LINES, 1);
}

/** At most `rows` lines of at most `columns` characters. */
export function renderTop(state: TopState, size: ScreenSize, paint: Paint): string[] {
  const rows = sortRows(withRates(state.frame, state.previous), state.sort, state.reversed);
  const page = pageSize(size);
  const shown = rows.slice(state.offset, state.offset + page);
  const titles = COLUMNS.map(({ title, key }) =>
    key === state.sort ? `${title}${state.reversed ? '^' : 'v'}` : title,
  );
  const cells = shown.map((row) => COLUMNS.map((column) => column.text(row)));
  // as wide as the widest of all VMs, so that scrolling moves no column
  const widths = COLUMNS.map((column, index) =>
    Math.max(
      column.title.length + (column.key ? 1 : 0),
      ...rows.map((row) => column.text(row).length),
      (titles[index] ?? '').length,
    ),
  );
  const line = (texts: readonly string[]) =>
    clip(texts.map((text, index) => text.padEnd(widths[index] ?? 0)).join('  '), size.columns);
  const lines = [
    clip(summary(state.frame), size.columns),
    '',
    paint('bold', line(titles)),
    ...(cells.length > 0 ? cells.map(line) : ['No VMs.']),
  ];
  const hidden = rows.length - shown.length;
  const below = hidden > 0 ? `${state.offset + 1}-${state.offset + shown.length} of ${rows.length}   ` : '';
  const filler = Array.from({ length: Math.max(size.rows - lines.length - 1, 0) }, () => '');
  return [...lines, ...filler, paint('dim', clip(`${below}${HELP}`, size.columns))].slice(0, size.rows);
}

function summary({ at, vms }: StatsFrame): string {
  const running = vms.filter(({ state }) => state === 'running').length;
  const cpu = vms.reduce((sum, { cpuPercent }) => sum + (cpuPercent ?? 0), 0);
  const rss = vms.reduce((sum, { rssBytes }) => sum + (rssBytes ?? 0), 0);
  const parts = [
    `${vms.length} ${vms.length === 1 ? 'VM' : 'VMs'}, ${running} running`,
    `CPU ${formatPercent(cpu)}`,
    `memory ${formatPart(rss, null)}`,
  ];
  return `banger top  ${at.slice(11, 19)} UTC  ${parts.join('  ')}`;
}

export function withRates(frame: StatsFrame, previous: StatsFrame | undefined): TopRow[] {
  const seconds = previous ? (Date.parse(frame.at) - Date.parse(previous.at)) / 1000 : 0;
  const before = new Map(previous?.vms.map((vm) => [vm.id, vm]));
  return frame.vms.map((vm) => {
    const rate = (counter: (of: VmStats) => number | null) => {
      const earlier = before.get(vm.id);
      const [from, to] = [earlier && counter(earlier), counter(vm)];
      // a counter that went back began again with the VM
      return from == null || to === null || to < from || seconds <= 0 ? null : (to - from) / seconds;
    };
    return {
      ...vm,
      diskRate: rate(({ diskReadBytes, diskWrittenBytes }) =>
        diskReadBytes === null || diskWrittenBytes === null ? null : diskReadBytes + diskWrittenBytes,
      ),
      receivedRate: rate(({ netReceivedBytes }) => netReceivedBytes),
      sentRate: rate(({ netSentBytes }) => netSentBytes),
    };
  });
}

/** Largest first, equal ones by name. */
function sortRows(rows: readonly TopRow[], sort: SortKey, reversed: boolean): TopRow[] {
  const byName = (a: TopRow, b: TopRow) => a.name.localeCompare(b.name);
  const order = (a: TopRow, b: TopRow) => {
    if (sort === 'name') return byName(a, b);
    return SORT_VALUES[sort](b) - SORT_VALUES[sort](a) || byName(a, b);
  };
  const sorted = rows.toSorted(order);
  return reversed ? sorted.reverse() : sorted;
}

function clip(text: string, columns: number): string {
  const trimmed = text.trimEnd();
  return trimmed.length <= columns ? trimmed : trimmed.slice(0, columns);
}
