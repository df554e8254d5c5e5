/** What a VMM's own log says of its end. */
import { lastLines, readTail } from './console.ts';

/** Firecracker's own farewell takes three lines; the one before them says what happened. */
const LAST_LINES = 4;

/** Whether it ends with a clean exit, which is what a guest's reset causes. */
export async function vmmExitedCleanly(vmmLog: string): Promise<boolean> {
  return /exit_code=0\s*$/.test((await readTail(vmmLog, 4096)).trimEnd());
}

/** A sentence with a VMM's last words, to go behind another one; empty when it said nothing. */
export async function lastWords(vmmLog: string): Promise<string> {
  const words = (await lastLines(vmmLog, LAST_LINES)).join(' | ');
  return words ? ` Its log ends with: ${words}` : '';
}
