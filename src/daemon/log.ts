/** The daemon's log: lines of JSON on standard output, which a full disk does not turn into its end. */
import { fstatSync, statSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import { BangerError } from '../errors.ts';
import { limitLog } from '../firecracker/console.ts';

/** What `BANGER_LOG` takes. */
const LEVELS = ['debug', 'info', 'warn', 'error'];

/** Lines kept in memory while they cannot be written; what comes then is lost. */
const MAX_WAITING_BYTES = 1024 * 1024;

const STDOUT = 1;

/** @throws BangerError `invalid_input` for a level there is none */
export function createLog(level: string | undefined): Logger {
  const destination = pino.destination({ dest: STDOUT, sync: true, maxLength: MAX_WAITING_BYTES });
  // without a listener, a full disk or a reader that went away would end the process
  destination.on('error', () => {});
  return pino({ level: logLevel(level), base: { pid: process.pid } }, destination);
}

function logLevel(wanted: string | undefined): string {
  if (wanted === undefined || wanted === '') return 'info';
  if (LEVELS.includes(wanted)) return wanted;
  throw new BangerError('invalid_input', `BANGER_LOG: "${wanted}" is none of ${LEVELS.join(', ')}.`, {
    hint: 'BANGER_LOG=debug',
  });
}

/** Cuts the file that standard output goes to when it is the daemon's own log and too large. */
export async function limitDaemonLog(path: string): Promise<boolean> {
  const output = fstatSync(STDOUT);
  const file = statSync(path, { throwIfNoEntry: false });
  // whoever sent the output elsewhere looks after it
  if (!file || file.ino !== output.ino || file.dev !== output.dev) return false;
  return await limitLog(path);
}
