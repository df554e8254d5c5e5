/** Whether a place for private things is one that another user could have made. */
import { lstatSync, type Stats } from 'node:fs';
import { dirname } from 'node:path';
import { BangerError } from '../errors.ts';

/** Of mode bits: everybody may write. */
const WRITABLE_BY_ALL = 0o002;

/**
 * Refuses a place that another user may have made or replaced: where everybody may write, as below /tmp, whatever leads to it
 * from there on must belong to this user or root. What is not there yet is nobody's.
 * @throws BangerError `host_unprepared` with whose it is
 */
export function requireOwnPlace(path: string, uid: number | undefined = process.geteuid?.()): void {
  let shared = false;
  for (const at of stepsTo(path)) {
    let found: Stats;
    try {
      found = lstatSync(at);
    } catch {
      return; // not there, or not to be seen: whoever uses it is told
    }
    if (shared && found.uid !== 0 && found.uid !== uid) {
      throw new BangerError(
        'host_unprepared',
        `${at} belongs to user ${found.uid}, who could replace what banger keeps there: everybody may make files in ${dirname(at)}.`,
        { hint: 'Have everything in a place of your own: BANGER_HOME=DIRECTORY' },
      );
    }
    shared ||= found.isDirectory() && (found.mode & WRITABLE_BY_ALL) !== 0;
  }
}

/** `/`, `/a`, `/a/b` */
function stepsTo(path: string): string[] {
  const steps = [path];
  for (let at = path; dirname(at) !== at; at = dirname(at)) steps.unshift(dirname(at));
  return steps;
}
