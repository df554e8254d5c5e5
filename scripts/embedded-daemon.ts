/**
 * What stands in the place of src/daemon/main.ts inside the single executable: the daemon is a script of
 * its own there, with its own code cache, so that commands do not pay for reading it.
 */
import { createRequire } from 'node:module';
import { getAsset, getRawAsset } from 'node:sea';
import { Script } from 'node:vm';
import { BangerError, type BangerErrorOptions, type ErrorCode } from '../src/errors.ts';

type Daemon = typeof import('../src/daemon/main.ts');

export const runDaemon: Daemon['runDaemon'] = async (options) => {
  const daemon = loadAsset('daemon') as Daemon;
  try {
    await daemon.runDaemon(options);
  } catch (error) {
    throw isBangerError(error) ? new BangerError(error.code, error.message, error) : error;
  }
};

/** Runs an embedded CommonJS script and returns what it exports. */
function loadAsset(name: string): unknown {
  const script = new Script(getAsset(`${name}.js`, 'utf8'), {
    filename: `${name}.js`,
    cachedData: new Uint8Array(getRawAsset(`${name}.cache`)),
  });
  const module = { exports: {} };
  script.runInThisContext()(module.exports, createRequire(process.execPath), module, process.execPath, '/');
  return module.exports;
}

/** The daemon's script has its own copy of the class, which `instanceof` does not know. */
function isBangerError(error: unknown): error is Error & BangerErrorOptions & { code: ErrorCode } {
  return error instanceof Error && error.name === 'BangerError';
}
