/** How a run of a guest ended, as the kernel's last words on its console tell it. */

/** An end that was no wish of the guest's, kept with the VM until the next one. */
export interface LastEnd {
  /** ISO 8601, when it was noticed */
  at: string;
  kind: 'panic' | 'reset' | 'memory' | 'vmm';
  /** a sentence */
  why: string;
  /** what was said last, by the guest's kernel or the VMM */
  lines: string[];
}

export type GuestEnd =
  /** it wanted to start again */
  | { kind: 'reboot' }
  /** it powered itself off */
  | { kind: 'poweroff' }
  /** its kernel gave up */
  | { kind: 'panic'; why: string; lines: string[] }
  /** its processor was reset without a word of its kernel, as by a triple fault */
  | { kind: 'reset'; why: string; lines: string[] };

/** Said whatever the kernel's log level: kernel/panic.c, kernel/reboot.c, drivers/tty/sysrq.c. */
const PANIC = 'Kernel panic - not syncing: ';
const REBOOTS = ['reboot: Restarting system', 'sysrq: Resetting'];
const POWER_OFFS = ['reboot: Power down', 'reboot: System halted'];

/** Lines kept of a panic: the registers and the trace fit in. */
const KEPT_LINES = 40;
/** Lines before a panic that often say why. */
const LINES_BEFORE = 10;
const MAX_LINE = 300;

/**
 * Judges a VMM that ended in good order, which is what a guest's reset causes whatever the reason for it.
 * @param console the end of what the guest printed, without control sequences
 */
export function judgeGuestEnd(console: string): GuestEnd {
  const reboot = Math.max(...REBOOTS.map((words) => console.lastIndexOf(words)));
  const powerOff = Math.max(...POWER_OFFS.map((words) => console.lastIndexOf(words)));
  // anybody in the guest can print any of them; what counts is what was said last
  const panic = console.indexOf(PANIC, Math.max(reboot, powerOff, 0));
  if (panic >= 0) {
    const said =
      console
        .slice(panic + PANIC.length)
        .split('\n', 1)[0]
        ?.trim() ?? '';
    const why = `The kernel of its guest panicked: ${cut(said)}`;
    return { kind: 'panic', why, lines: linesAround(console, panic) };
  }
  if (powerOff > reboot) return { kind: 'poweroff' };
  // a console that was never written to tells nothing
  if (reboot >= 0 || console.trim() === '') return { kind: 'reboot' };
  const why = 'The processor of its guest was reset without a word of its kernel, as by a triple fault.';
  return { kind: 'reset', why, lines: lastOf(console.split('\n')) };
}

function linesAround(text: string, at: number): string[] {
  const before = text.slice(0, at).split('\n');
  const begun = before.pop() ?? '';
  const from = `${begun}${text.slice(at)}`.split('\n');
  return lastOf([...before.slice(-LINES_BEFORE), ...from].slice(0, KEPT_LINES));
}

function lastOf(lines: readonly string[]): string[] {
  return lines
    .map((line) => cut(line.trimEnd()))
    .filter((line) => line !== '')
    .slice(-KEPT_LINES);
}

function cut(line: string): string {
  return line.length <= MAX_LINE ? line : `${line.slice(0, MAX_LINE - 1)}…`;
}
