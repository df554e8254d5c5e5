/** What `ps` and `top` call this process. */
import { writeFileSync } from 'node:fs';

/**
 * The kernel keeps 15 bytes of it. Not `process.title`: that also writes over the arguments, by which a VMM is found
 * again.
 */
export function setProcessName(name: string): void {
  try {
    writeFileSync('/proc/self/comm', name);
  } catch {
    // no /proc, e.g. in a chroot: nobody there looks for us by name
  }
}
