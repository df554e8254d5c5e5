/**
 * `--boot-timer`: the guest writes a byte to an address where Firecracker has a device, and the time since
 * InstanceStart is logged. QEMU has no such device, but reports writes that meet none; the byte's value stays unknown.
 */
import { readFileSync } from 'node:fs';

/** What QEMU needs to be told so that it reports them on standard error. */
export const BOOT_TIMER_ARGUMENTS = ['-d', 'guest_errors'];

/** Ticks of the kernel's CPU accounting; a constant of Linux's user interface. */
const TICKS_PER_SECOND = 100;

/** What a line of QEMU's is, when it was told to report. */
export function guestErrorKind(line: string): 'boot' | 'other' | undefined {
  if (/^Invalid write at addr 0xC0000000, size 1,/i.test(line)) return 'boot';
  return line.startsWith('Invalid ') ? 'other' : undefined;
}

export class BootTimer {
  readonly #beginMs = performance.now();
  readonly #beginCpu = process.cpuUsage();

  /** Firecracker's log message; QEMU, which started with the timer, counts as this process. */
  message(qemuPid: number): string {
    const us = Math.round((performance.now() - this.#beginMs) * 1000);
    const { user, system } = process.cpuUsage(this.#beginCpu);
    const cpuUs = user + system + processCpuUs(qemuPid);
    const pad = (value: number) => String(value).padStart(6);
    return `Guest-boot-time = ${pad(us)} us ${Math.floor(us / 1000)} ms, ${pad(cpuUs)} CPU us ${Math.floor(cpuUs / 1000)} CPU ms`;
  }
}

function processCpuUs(pid: number): number {
  try {
    const fields = readFileSync(`/proc/${pid}/stat`, 'latin1')
      .replace(/^.*\) /s, '')
      .split(' ');
    return ((Number(fields[11]) + Number(fields[12])) * 1_000_000) / TICKS_PER_SECOND;
  } catch {
    return 0;
  }
}
