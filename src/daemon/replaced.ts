/**
 * A daemon whose program was replaced, by an upgrade for example, makes room for the new one: systemd starts it at once, and it adopts
 * the VMs. Until then the old program does what it can do: its file is there for as long as it runs.
 */
import { existsSync, readlinkSync } from 'node:fs';
import type { Argv } from '../system/runner.ts';

/** Whether there is another file now in the place of the program that this process runs; never for one that runs from source. */
export function isProgramReplaced(self: Argv, running = '/proc/self/exe'): boolean {
  if (self.length > 1) return false;
  try {
    // the kernel says so of a file that has lost its name
    return readlinkSync(running).endsWith(' (deleted)') && existsSync(self[0]);
  } catch {
    return false; // no /proc, or a program that was removed
  }
}
