/** How much memory a guest uses, by its own /proc/meminfo. */

export interface GuestMemory {
  totalBytes: number;
  /** what programs hold and cannot be taken from them without swapping: total less available */
  usedBytes: number;
}

/** What is run in the guest. */
export const MEMINFO_COMMAND = 'cat /proc/meminfo';

/** @returns undefined when the text is no meminfo, or says what cannot be */
export function parseMeminfo(text: string): GuestMemory | undefined {
  const bytes = (field: string) =>
    Number(new RegExp(`^${field}:\\s+(\\d{1,12}) kB$`, 'm').exec(text)?.[1] ?? Number.NaN) * 1024;
  const totalBytes = bytes('MemTotal');
  const usedBytes = totalBytes - bytes('MemAvailable');
  return totalBytes > 0 && usedBytes >= 0 ? { totalBytes, usedBytes } : undefined;
}
