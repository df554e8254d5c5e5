/** Questions that are not worth a daemon: whoever completes a word or asks for a version starts none. */
import { BangerError } from '../errors.ts';

/** What the daemon answered; undefined when none runs. */
export async function ifRunning<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof BangerError && error.code === 'daemon_unreachable') return undefined;
    throw error;
  }
}
