/** Sizes and durations as people write them: "2GiB", "512M", "30s", "1m30s". */
import { BangerError } from './errors.ts';

const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;
export const TIB = 1024 * GIB;

/** Binary throughout, as qemu, lima and truncate do: "2G" is 2 GiB. */
const SIZE_FACTORS: Record<string, number> = { '': 1, b: 1, k: KIB, m: MIB, g: GIB, t: TIB };

/**
 * Bytes of a size such as "2GiB", "512M" or "4096".
 * @throws BangerError `invalid_input` when the text is no size, is negative or is no whole number of bytes
 */
export function parseSize(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([bkmgt]?)(i?b)?$/i.exec(text.trim());
  const factor = match?.[2] === undefined ? undefined : SIZE_FACTORS[match[2].toLowerCase()];
  const bytes = match?.[1] === undefined || factor === undefined ? Number.NaN : Math.round(Number(match[1]) * factor);
  if (!Number.isSafeInteger(bytes)) {
    throw new BangerError('invalid_input', `"${text}" is not a size.`, { hint: 'Write it as 512M, 2GiB or 10G.' });
  }
  return bytes;
}

/** Bytes as a short text with at most one decimal, e.g. "1.5 GiB". */
export function formatSize(bytes: number): string {
  const steps: [number, string][] = [
    [TIB, 'TiB'],
    [GIB, 'GiB'],
    [MIB, 'MiB'],
    [KIB, 'KiB'],
  ];
  for (const [factor, unit] of steps) {
    if (bytes >= factor) return `${trimZero((bytes / factor).toFixed(1))} ${unit}`;
  }
  return `${bytes} B`;
}

const DURATION_MS: Record<string, number> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/**
 * Milliseconds of a duration such as "30s", "2m", "1h30m"; a bare number counts seconds.
 * @throws BangerError `invalid_input` when the text is no duration
 */
export function parseDuration(text: string): number {
  const trimmed = text.trim();
  if (/^\d+(\.\d+)?$/.test(trimmed)) return Math.round(Number(trimmed) * 1000);
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(trimmed)) {
    throw new BangerError('invalid_input', `"${text}" is not a duration.`, { hint: 'Write it as 30s, 2m or 1h30m.' });
  }
  let total = 0;
  for (const [, amount, unit] of trimmed.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/gy)) {
    total += Number(amount) * (DURATION_MS[unit ?? ''] ?? 0);
  }
  return Math.round(total);
}

/** What Node's timers can wait, 24.8 days in ms; they end at once when they are given more. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

/** A wait in ms that people chose, as a timer can keep it. */
export function timerMs(ms: number): number {
  return Math.min(ms, LONGEST_TIMER_MS);
}

/** Milliseconds as a short text: "430 ms", "6.2 s", "2 m 5 s", "3 h 20 m", "4 d 1 h". */
export function formatDuration(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${trimZero((ms / 1000).toFixed(1))} s`;
  const seconds = Math.round(ms / 1000);
  const parts: [number, string][] = [
    [Math.floor(seconds / 86_400), 'd'],
    [Math.floor(seconds / 3600) % 24, 'h'],
    [Math.floor(seconds / 60) % 60, 'm'],
    [seconds % 60, 's'],
  ];
  const first = parts.findIndex(([amount]) => amount > 0);
  return parts
    .slice(first, first + 2)
    .filter(([amount]) => amount > 0)
    .map(([amount, unit]) => `${amount} ${unit}`)
    .join(' ');
}

function trimZero(text: string): string {
  return text.replace(/\.0$/, '');
}
