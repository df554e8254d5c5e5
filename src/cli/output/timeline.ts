/** Steps in time as a small chart: when each began, how long it took, what ran side by side. */
import type { TimelineStep } from '../../api/vm.ts';
import { formatDuration } from '../../units.ts';
import type { Paint } from './paint.ts';

const CHART_COLUMNS = 40;

export function renderTimeline(steps: readonly TimelineStep[], paint: Paint): string {
  const inOrder = steps.toSorted((a, b) => a.startedMs - b.startedMs);
  const endMs = Math.max(1, ...inOrder.map(({ startedMs, durationMs }) => startedMs + durationMs));
  const nameWidth = Math.max(...inOrder.map(({ step }) => step.length));
  const times = inOrder.map(({ durationMs }) => formatDuration(durationMs));
  const timeWidth = Math.max(...times.map(({ length }) => length));
  return inOrder
    .map(({ step, startedMs, durationMs }, index) => {
      const from = Math.min(Math.floor((startedMs / endMs) * CHART_COLUMNS), CHART_COLUMNS - 1);
      const until = Math.max(Math.round(((startedMs + durationMs) / endMs) * CHART_COLUMNS), from + 1);
      const bar = `${' '.repeat(from)}${'#'.repeat(until - from)}${' '.repeat(CHART_COLUMNS - until)}`;
      return `${step.padEnd(nameWidth)}  ${(times[index] ?? '').padStart(timeWidth)}  |${paint('cyan', bar)}|`;
    })
    .join('\n');
}
