/**
 * The executable for a place where processors are emulated: V8 translates no function twice. What its optimizing compilers
 * make there is translated once more by QEMU and rarely pays; in a daemon that starts a few VMs they took a third of the time.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';

const ROOT = resolve(import.meta.dirname, '../..');
const FLAGS = '--no-opt --no-maglev';

/** Builds it below `directory` unless it is there and no older than the ordinary one; returns the directory of both names. */
export function lightExecutable(directory: string): string {
  const output = join(directory, 'light');
  const made = join(output, 'banger');
  if (existsSync(made) && statSync(made).mtimeMs > statSync(join(ROOT, 'dist/banger')).mtimeMs) return output;
  mkdirSync(output, { recursive: true });
  const env = { ...process.env, BANGER_BUILD_OUTPUT: output, BANGER_BUILD_V8_FLAGS: FLAGS };
  execFileSync(process.execPath, ['scripts/build.ts'], { cwd: ROOT, env, stdio: ['ignore', 'ignore', 'inherit'] });
  return output;
}
