/**
 * What stands in the place of src/daemon/main.ts inside the single executable: the daemon is a script of
 * its own there, with its own code cache, so that commands do not pay for reading it.
 */
import { BangerError, type BangerErrorOptions, type ErrorCode } from '../src/errors.ts';
import { runAsset } from './assets.ts';

type Daemon = typeof import('../src/daemon/main.ts');

export const runDaemon: Daemon['runDaemon'] = async (options) => {
  const daemon = runAsset('daemon') as Daemon;
  try {
    await daemon.runDaemon(options);
  } catch (error) {
    throw isBangerError(error) ? new BangerError(error.code, error.message, error) : error;
  }
};

/** The daemon's script has its own copy of the class, which `instanceof` does not know. */
function isBangerError(error: unknown): error is Error & BangerErrorOptions & { code: ErrorCode } {
  return error instanceof Error && error.name === 'BangerError';
}
